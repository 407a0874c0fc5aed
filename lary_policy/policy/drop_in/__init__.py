"""LeRobot's own policies with an encoder of this package in place of their vision tower."""
