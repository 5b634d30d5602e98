"""The report for people: one self-contained page, with every chart also as a picture of its own."""
