"""Where a cold command, a warm query and indexing spend their time, beside what is the least."""
