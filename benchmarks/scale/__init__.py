"""How engines and logs grow: frames a second by workers and servers, and what a hand-over costs."""
