"""`python -m ros_nodes.rclpy_node --ros-args -p bundle:=yolox.bundle`."""

import sys

from ros_nodes.rclpy_node.main import main

sys.exit(main())
