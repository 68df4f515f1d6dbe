"""A meter with the registers of an Eastron SDM120 and a few of other types. Usage: modbus_meter.py PORT"""

import asyncio
import sys

from pymodbus.server import StartAsyncTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

INPUT = [
    SimData(0, values=[230.5], datatype=DataType.FLOAT32),
    SimData(6, values=[1.25], datatype=DataType.FLOAT32),
    SimData(12, values=[281.5], datatype=DataType.FLOAT32),
    SimData(342, values=[1234.5], datatype=DataType.FLOAT32),
]
HOLDING = [
    SimData(100, values=[4321], datatype=DataType.UINT32),
    SimData(102, values=[-5], datatype=DataType.INT16),
    SimData(103, values=[0xFFFF], datatype=DataType.REGISTERS),
]
BITS = [SimData(0, values=[False], datatype=DataType.BITS)]

device = SimDevice(1, simdata=(BITS, BITS, HOLDING, INPUT))
asyncio.run(StartAsyncTcpServer(device, address=("127.0.0.1", int(sys.argv[1]))))
