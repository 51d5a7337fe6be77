"""A node over a recorded drive: frames from a bag, results into one, without ROS."""
