"""Load for a service of pictures: an open-loop generator, and the servers it is turned on."""
