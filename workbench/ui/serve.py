"""Streamlit's own server, told that `pages/` is not its old kind of pages folder.

`python -m workbench.ui.serve run app.py …` takes the arguments of `streamlit`. Streamlit takes any folder named `pages`
beside the script for one it should list by itself, until the script has called `st.navigation` for the first time;
an address opened before that would be answered with "page not found" over the right page.
"""

from __future__ import annotations

from streamlit.runtime.pages_manager import PagesManager
from streamlit.web import cli

if __name__ == "__main__":
    PagesManager.uses_pages_directory = False
    cli.main(prog_name="streamlit")
