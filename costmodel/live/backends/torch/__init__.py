"""Torch's own all-reduces, over symmetric memory and by NCCL or RCCL, before a separate norm."""
