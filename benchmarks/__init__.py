"""How fast it is: real worker processes against hand-written SQL and against other packages, side by side."""
