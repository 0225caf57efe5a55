"""One function per verb: wires the rooms to Ray Data and Ray Train; resources, placement and tables live here."""
