"""The ROS 2 package of avcompress: an executable, and what launch files share."""
