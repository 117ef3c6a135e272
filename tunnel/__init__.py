"""tunneld: packet tunnels in user space. The names that applications and providers use."""
