"""Many pictures, on one machine or a cluster: sources in, shards of labels out, each once."""
