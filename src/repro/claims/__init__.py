"""The paper's claims, how each is checked, and the page that shows them."""
