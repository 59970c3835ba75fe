"""Where a claimed run is started: this machine, or a cluster."""
