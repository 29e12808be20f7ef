"""Datasets from videos of a person: frames, poses, keypoints over time."""
