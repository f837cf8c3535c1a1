"""Where two models differ, and why: system identification, one part of the network at a time.

Each side is watched from outside. What a part made of its own input is compared with what every
known behaviour would make of it, so that several causes at once do not hide each other.
"""
