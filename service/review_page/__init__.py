"""The pages for reviewers: templates, charts, and the files of the review station, which runs in the browser."""
