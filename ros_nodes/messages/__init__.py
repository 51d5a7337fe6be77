"""ROS messages of any library, by their names and fields; imports none of them."""
