"""The userspace TCP/IP stack."""
