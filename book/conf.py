"""Sphinx's settings. `python -m advlib book` copies this folder, puts the chapters beside it, and builds there."""

project = "Adversarial transferability and flat minima"
author = "The advlib authors"
copyright = "the advlib authors, MIT licence"

extensions = ["myst_nb", "sphinx_design", "sphinxcontrib.bibtex", "sphinx.ext.mathjax"]
exclude_patterns = ["colab.ipynb", "downloads", "slides"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the code that sets up or draws"
nb_code_prompt_hide = "Hide it"
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# From the package sphinx-mathjax-offline: SVG, as browsers refuse a page from file:// other fonts than its own.
mathjax_path = "mathjax/startup.js"
mathjax3_config = {"loader": {"load": ["core", "input/tex", "output/svg", "a11y/assistive-mml"]}}

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = ["tables.js", "filter.js", "copy.js", "reach.js"]
html_context = {"default_mode": "auto"}
html_copy_source = False
html_use_index = False
html_show_sourcelink = False
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
