"""What the pages share: workspace, session keys, links, forms from config classes, charts, safe text, errors.

Streamlit lives here, in `pages/` and in `app.py`, nowhere else. Pages stay straight scripts; whatever two of them need,
or what is too long for one, is a file here. Nothing here decides what the library should decide.
"""
