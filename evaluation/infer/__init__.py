"""Batch inference: pictures of many objects in; views, meshes and a verified manifest out."""
