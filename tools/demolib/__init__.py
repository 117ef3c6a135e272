"""The demonstration behind tools/demo: a lab, a story that is told in it, and a report.

lab       the namespaces and links, and their drawing
tap       counts packets on an interface in the kernel, missing none
output    the lines that a process prints, as events to wait for
ping      a continuous ping whose answers are such events
service   a long-running program of the lab, with its log
tunnels   keys, configuration files and the two tunnelds
story     what happens, in order, and what is measured
report    what was measured as verdicts and tables (pure)
remove    takes a lab away again, by its tag alone
"""
