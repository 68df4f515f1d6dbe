"""A plug behind a broker. Usage: mqtt_plug.py PORT tasmota|shelly1|shelly2 [PASSWORD]

It answers as the firmware does when it is asked, and says nothing by itself, so that a test knows what it heard.
"""

import json
import sys

import paho.mqtt.client as mqtt

port, kind = int(sys.argv[1]), sys.argv[2]
on = True
WILLS = {
    "tasmota": ("tele/plug/LWT", "Offline", "Online"),
    "shelly1": ("shellies/plug/online", "false", "true"),
    "shelly2": ("plug/online", "false", "true"),
}
COMMANDS = {"tasmota": "cmnd/plug/#", "shelly1": "shellies/plug/#", "shelly2": "plug/rpc"}


def tasmota(client, topic, payload):
    global on
    command = topic.rsplit("/", 1)[1]
    word = "ON" if on else "OFF"
    if command == "Status" and payload == "10":
        energy = {"Total": 3.185, "Today": 0.1, "Power": 51 if on else 0, "ApparentPower": 60, "Voltage": 231, "Current": 0.26}
        client.publish("stat/plug/STATUS10", json.dumps({"StatusSNS": {"Time": "2024-01-01T00:00:00", "ENERGY": energy}}))
    elif command == "Status" and payload == "11":
        client.publish("stat/plug/STATUS11", json.dumps({"StatusSTS": {"UptimeSec": 5, "POWER": word}}))
    elif command == "Power1":
        on = payload == "ON"
        client.publish("stat/plug/RESULT", json.dumps({"POWER": payload}))
        client.publish("stat/plug/POWER", payload)


def shelly1(client, topic, payload):
    global on
    if topic == "shellies/plug/command" and payload == "update":
        client.publish("shellies/plug/relay/0/power", "51.30" if on else "0.00")
        client.publish("shellies/plug/relay/0/energy", "600")
        client.publish("shellies/plug/relay/0", "on" if on else "off")
    elif topic == "shellies/plug/relay/0/command":
        on = payload == "on"
        client.publish("shellies/plug/relay/0", payload)


def shelly2(client, topic, payload):
    global on
    request = json.loads(payload)
    params, answer = request["params"], {"id": request["id"], "src": "plug", "dst": request["src"]}
    if params.get("id") != 0:
        answer["error"] = {"code": -105, "message": f"Argument 'id', value {params.get('id')} not found!"}
    elif request["method"] == "Switch.Set":
        answer["result"] = {"was_on": on}
        on = params["on"]
    else:
        answer["result"] = {"id": 0, "output": on, "apower": 8.9 if on else 0.0, "voltage": 237.5, "current": 0.041,
                            "aenergy": {"total": 6.532}}
    client.publish(request["src"] + "/rpc", json.dumps(answer))


def connected(client, *_):
    client.subscribe(COMMANDS[kind])


def subscribed(client, *_):
    topic, _, here = WILLS[kind]
    client.publish(topic, here, retain=True)


def message(client, _, message):
    globals()[kind](client, message.topic, message.payload.decode())


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="plug")
if len(sys.argv) > 3:
    client.username_pw_set("reader", sys.argv[3])
topic, gone, _ = WILLS[kind]
client.will_set(topic, gone, retain=True)
client.on_connect, client.on_subscribe, client.on_message = connected, subscribed, message
client.connect("127.0.0.1", port, keepalive=60)
client.loop_forever()
