"""The node of a ROS 2 installation, Humble or Jazzy: a managed node over `ros_nodes.core`."""
