"""A node without a ROS installation: Cyclone DDS speaks what ROS 2's middleware speaks on the wire."""
