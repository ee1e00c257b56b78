"""What `ztcir adapt` takes and gains on photos without captions and attributes."""
