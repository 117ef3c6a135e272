"""What turns a provider into a running tunnel: session, tunneld, the control socket, tunnelctl."""
