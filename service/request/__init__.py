"""The body of a request: it is read, parsed and checked, and pictures that it names by URL are fetched.

Read in this order: request_body (the whole), json_body or form_body with multipart (the encoding), base64_text, fields
(the rules), picture_fetch, fingerprint (equal requests).
"""
