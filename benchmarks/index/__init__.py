"""The index beside hnswlib, faiss, usearch and LanceDB: time, space and recall, in one run."""
