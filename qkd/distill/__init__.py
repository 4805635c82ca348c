"""Knowledge: what of the teacher is matched, one small file a family."""
