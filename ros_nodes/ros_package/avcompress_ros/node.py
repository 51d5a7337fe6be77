"""The executable `node`: that of `ros_nodes.rclpy_node`."""

import sys


def main():
    """Start the node; says what is missing where avcompress is not installed for this Python."""
    try:
        from ros_nodes.rclpy_node.main import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ros_nodes":
            raise
        python = sys.executable
        return f"avcompress_ros: expected avcompress for {python}, got none; {python} -m pip install avcompress"
    return run()
