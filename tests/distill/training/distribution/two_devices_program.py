"""The tiny programs, with two logical CPUs.

python two_devices_program.py FILE PROGRAM ARGUMENTS
"""

import runpy
from pathlib import Path

import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
runpy.run_path(str(Path(__file__).with_name("recording_program.py")), run_name="__main__")
