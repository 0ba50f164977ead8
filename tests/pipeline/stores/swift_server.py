"""An OpenStack Swift of one disk with its S3 API, in one process; run by the Python of an environment that has Swift.

    python swift_server.py FOLDER PORT

Prints a line when it answers. The account is `test:tester`, its key `testing`, as in Swift's own examples.
"""

import sys
from pathlib import Path

import eventlet

eventlet.patcher.monkey_patch(thread=False)

from eventlet import wsgi  # noqa: E402
from swift.common import storage_policy, utils  # noqa: E402

COMMON = """
[swift-hash]
swift_hash_path_prefix = a
swift_hash_path_suffix = b
[storage-policy:0]
name = one
default = yes
"""
SERVER = """
[DEFAULT]
devices = {folder}/devices
mount_check = false
swift_dir = {folder}
bind_ip = 127.0.0.1
user = root
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
allow_versions = false
fallocate_reserve = 0
"""
PROXY = """
[DEFAULT]
swift_dir = {folder}
bind_ip = 127.0.0.1
user = root
[pipeline:main]
pipeline = catch_errors cache s3api tempauth slo dlo copy proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
check_bucket_owner = false
min_segment_size = 1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:copy]
use = egg:swift#copy
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""


def main(folder: Path, port: int) -> None:
    device = folder / "devices" / "disk"
    device.mkdir(parents=True)
    conf = folder / "swift.conf"
    conf.write_text(COMMON)
    utils.SWIFT_CONF_FILE = str(conf)
    storage_policy.SWIFT_CONF_FILE = str(conf)
    utils.validate_hash_conf()
    storage_policy.reload_storage_policies()
    from swift.common.ring.builder import RingBuilder
    from swift.common.wsgi import loadapp

    listeners = {}
    for name in ("account", "container", "object"):
        listeners[name] = eventlet.listen(("127.0.0.1", 0))
        ring = RingBuilder(4, 1, 0)
        place = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": listeners[name].getsockname()[1]}
        ring.add_dev({"id": 0, "device": "disk", "weight": 1, **place})
        ring.rebalance()
        ring.get_ring().save(str(folder / f"{name}.ring.gz"))
    listeners["proxy"] = eventlet.listen(("127.0.0.1", port))
    for name, listener in listeners.items():
        file = folder / f"{name}.conf"
        file.write_text((PROXY if name == "proxy" else SERVER).format(folder=folder, name=name))
        eventlet.spawn(wsgi.server, listener, loadapp(str(file)), log_output=False)
    print("ready", flush=True)
    while True:
        eventlet.sleep(3600)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
