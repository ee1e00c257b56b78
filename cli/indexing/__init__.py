"""The commands that make an index and look after it: `ztcir index` and `ztcir embed`."""
