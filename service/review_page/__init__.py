"""The pages for reviewers: templates, charts, and the files of the review station, which runs in the browser.

`static/vendor` has Preact 11.2.0 (MIT) and htm 3.1.1 (Apache-2.0), unchanged from their npm packages.
"""
