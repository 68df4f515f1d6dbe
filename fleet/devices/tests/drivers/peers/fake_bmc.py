"""A management controller over LAN with DCMI power reading. Usage: fake_bmc.py PORT WATTS"""

import struct
import sys

from pyghmi.ipmi import bmc

DCMI = 0x2C
GET_POWER_READING = 0x02
GROUP = 0xDC
ACTIVATED = 0x40


class Controller(bmc.Bmc):
    def __init__(self, port, watts):
        super().__init__({"reader": "s3cret"}, port=port)
        self.watts = watts
        self.state = "on"

    def get_power_state(self):
        return self.state

    def power_on(self):
        self.state = "on"

    def power_off(self):
        self.state = "off"

    def power_shutdown(self):
        self.state = "off"

    def power_cycle(self):
        # as the specification has it: not in this state
        return 0xD5 if self.state == "off" else 0

    def handle_raw_request(self, request, session):
        if (request["netfn"], request["command"]) == (DCMI, GET_POWER_READING):
            state = ACTIVATED if self.watts else 0
            answer = struct.pack("<BHHHHIIB", GROUP, self.watts, 60, 480, 200, 1_700_000_000, 1000, state)
            return session.send_ipmi_response(data=list(answer))
        return super().handle_raw_request(request, session)


Controller(int(sys.argv[1]), int(sys.argv[2])).listen()
