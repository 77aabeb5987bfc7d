"""The claims of the paper, their checks, and the page that shows them."""
