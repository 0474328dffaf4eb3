"""How the engines grow: frames a second by workers, and what handing a frame over costs.

pause     a task of a fixed cost, which workers import
measure   the engines, one after the other
page      the results as a page
"""
