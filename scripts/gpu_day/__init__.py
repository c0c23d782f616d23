"""A GPU day: everything that only a GPU can show, measured within nine minutes.

`run` starts the steps, each in a process of its own, and writes what they report to one JSON;
`table` prints that as Markdown. A step is a module of `steps`: its `measure` reports one row of
figures after the other.
"""
