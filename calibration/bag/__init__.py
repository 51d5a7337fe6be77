"""Images of cameras from recorded drives: rosbag2 in MCAP or SQLite, without ROS."""
