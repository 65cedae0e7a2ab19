"""From recorded episodes to the tightest readable profile that allows what was observed in them.

`observation` reads trails, `destinations` and `names` generalise what was seen, `narrowness` proves that nothing is
allowed that the extended profile does not allow, and `draft` writes the text.
"""
