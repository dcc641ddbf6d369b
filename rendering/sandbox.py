"""Starts a Python script in a process that can do little besides compute: no network, no other programs, few files.

Standard library only; nothing of ours is imported, and no privilege is needed (Linux, x86_64 and aarch64). Run as

    python -P sandbox.py NOTE_FD JSON SCRIPT [ARGUMENT ...]

JSON: {"enforce": bool, "gpu": bool, "read": [path, ...], "write": [path, ...], "nofile": int, "fsize": bytes, "memory":
bytes or 0}. What was put in force is written to NOTE_FD as one JSON line, with the reason where the kernel refused a
part; the script runs in any case, and whoever started it decides from the note whether that is good enough.

- Landlock: reading only below `read`, the interpreter's own folders and the system's libraries; writing only below
  `write`, and there neither links nor devices can be made. From kernel 5.13.
- seccomp: no sockets (Unix ones with `gpu`), no new processes or programs, no tracing, no mounts, no io_uring, no
  signals to others, no change of owner or mode, no raising of one's own limits. From kernel 3.17.
- resource limits: no core files, address space, sizes of files written, number of open files.
"""

import ctypes
import json
import os
import platform
import resource
import runpy
import struct
import sys
import sysconfig

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
EPERM, ENOSYS = 1, 38

# name -> (x86_64, aarch64); None where the architecture has no such call.
CALLS = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "syslog": (103, 116),
    "personality": (135, 92),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setrlimit": (160, 164),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of CALLS, AUDIT_ARCH
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
X32_BIT = 0x40000000
CLONE_THREAD = 0x10000
AF_UNIX = 1

# What programs of the system need to start and to draw; each where it exists.
SYSTEM_READ = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/nix/store"),
    *("/usr/share/fonts", "/usr/local/share/fonts", "/etc/fonts", "/usr/share/zoneinfo", "/usr/share/locale", "/usr/lib/locale"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/localtime", "/etc/passwd", "/etc/nsswitch.conf"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/sys/vm", "/proc/sys/kernel"),
    *("/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup", "/sys/kernel/mm"),
    *("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"),
)
GPU_READ = (
    *("/sys/devices", "/sys/bus/pci", "/sys/class", "/sys/module", "/proc/driver", "/proc/devices", "/proc/modules"),
    *("/usr/share/glvnd", "/etc/glvnd", "/usr/share/vulkan", "/etc/vulkan", "/usr/share/nvidia", "/usr/share/drirc.d"),
    *("/etc/OpenCL", "/opt/rocm", "/usr/local/nvidia", "/usr/local/cuda"),
)
GPU_DEVICES = ("/dev/dri", "/dev/kfd")  # and every /dev/nvidia*

FS_EXECUTE, FS_WRITE, FS_READ, FS_READ_DIR, FS_REMOVE_DIR, FS_REMOVE_FILE = (1 << bit for bit in range(6))
FS_MAKE_DIR, FS_MAKE_REG, FS_TRUNCATE, FS_IOCTL = 1 << 7, 1 << 8, 1 << 14, 1 << 15
FILE_RIGHTS = FS_EXECUTE | FS_WRITE | FS_READ | FS_TRUNCATE | FS_IOCTL
READ_RIGHTS = FS_READ | FS_READ_DIR
WRITE_RIGHTS = READ_RIGHTS | FS_WRITE | FS_TRUNCATE | FS_REMOVE_DIR | FS_REMOVE_FILE | FS_MAKE_DIR | FS_MAKE_REG
DEVICE_RIGHTS = FS_READ | FS_READ_DIR | FS_WRITE | FS_IOCTL
HANDLED_BY_ABI = (0, 13, 14, 15, 15, 16)  # number of file rights that ABI 0, 1, ... knows

libc = ctypes.CDLL(None, use_errno=True)


def checked(result, what):
    """The result of a call of the C library, or OSError."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def limit_resources(open_files, file_bytes, memory_bytes):
    """No core files, and bounds on open files, on the size of each file written and on the address space."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wanted_limits = [(resource.RLIMIT_NOFILE, open_files), (resource.RLIMIT_FSIZE, file_bytes)]
    if memory_bytes:
        wanted_limits.append((resource.RLIMIT_AS, memory_bytes))
    for kind, wanted in wanted_limits:
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))


def own_folders():
    """Folders of this interpreter and of its packages, bpy's included."""
    folders = {
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        sysconfig.get_path("stdlib"),
        os.path.dirname(os.path.realpath(sys.executable)),
    }
    folders.update(entry for entry in sys.path if os.path.basename(entry) in ("site-packages", "dist-packages") or entry.endswith(".zip"))
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH"):
        folders.update(os.environ.get(name, "").split(os.pathsep))
    return sorted(folder for folder in folders if folder and os.path.realpath(folder) != "/")


def restrict_files(read, write, gpu):
    """Landlock: returns the ABI in force. Raises OSError where the kernel has none."""
    abi = checked(libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1), "landlock")
    handled = (1 << HANDLED_BY_ABI[min(abi, len(HANDLED_BY_ABI) - 1)]) - 1
    network = 0b11 if abi >= 4 else 0  # bind and connect of TCP
    scoped = 0b11 if abi >= 6 else 0  # abstract Unix sockets and signals
    attributes = struct.pack("<QQQ", handled, network, scoped)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    rules = checked(libc.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock_create_ruleset")
    for path in (*SYSTEM_READ, *own_folders(), *read, *(GPU_READ if gpu else ())):
        _allow(rules, path, READ_RIGHTS & handled)
    _allow(rules, "/dev/null", (FS_READ | FS_WRITE) & handled)
    for path in write:
        _allow(rules, path, WRITE_RIGHTS & handled)
    for path in gpu_devices() if gpu else ():
        _allow(rules, path, DEVICE_RIGHTS & handled)
    checked(libc.syscall(LANDLOCK_RESTRICT, rules, 0), "landlock_restrict_self")
    os.close(rules)
    return abi


def gpu_devices():
    return [*GPU_DEVICES, *(f"/dev/{name}" for name in os.listdir("/dev") if name.startswith("nvidia"))]


def _allow(rules, path, rights):
    """One path that may be used so; paths that do not exist are left out."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= FILE_RIGHTS
        checked(libc.syscall(LANDLOCK_ADD, rules, 1, struct.pack("<Qi", rights, descriptor), 0), f"landlock_add_rule {path}")
    finally:
        os.close(descriptor)


def filter_calls(gpu):
    """seccomp: the calls of `CALLS` fail with EPERM, each with the exceptions below. Raises OSError."""
    column, architecture = MACHINES.get(platform.machine(), (None, 0))
    if column is None:
        raise OSError(ENOSYS, f"no list of system calls for {platform.machine()}")
    program = seccomp_program({name: numbers[column] for name, numbers in CALLS.items() if numbers[column] is not None}, architecture, gpu)
    code = b"".join(struct.pack("<HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0), "seccomp")


def seccomp_program(numbers, architecture, gpu):
    """Classic BPF as (code, jump if true, jump if false, constant); the call's data: number, architecture, ip, arguments."""
    load, equal, at_least, mask_set, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, deny, absent = (give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x50000 | EPERM), (give, 0, 0, 0x50000 | ENOSYS)

    def argument(index, high=False):
        return (load, 0, 0, 16 + 8 * index + 4 * high)

    own = os.getpid()
    exceptions = {
        # Threads are clones that share the process. clone3 hides its flags in memory; absent, glibc uses clone.
        "clone": [argument(0), (mask_set, 0, 1, CLONE_THREAD), allow, deny],
        "clone3": [absent],
        "kill": [argument(0), (equal, 0, 1, own), allow, deny],
        "tgkill": [argument(0), (equal, 0, 1, own), allow, deny],
        "rt_sigqueueinfo": [argument(0), (equal, 0, 1, own), allow, deny],
        "rt_tgsigqueueinfo": [argument(0), (equal, 0, 1, own), allow, deny],
        # Reading a limit passes no new one.
        "prlimit64": [argument(2), (equal, 0, 3, 0), argument(2, high=True), (equal, 0, 1, 0), allow, deny],
        "socketpair": [argument(0), (equal, 0, 1, AF_UNIX), allow, deny],
    }
    if gpu:  # drivers talk to their daemon
        exceptions["socket"] = [argument(0), (equal, 0, 1, AF_UNIX), allow, deny]
    number = (load, 0, 0, 0)
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), deny, number]
    if architecture == MACHINES["x86_64"][1]:
        program += [(at_least, 0, 1, X32_BIT), deny]
    for name, value in sorted(numbers.items()):
        steps = exceptions.get(name, [deny])
        program += [(equal, 0, len(steps), value), *steps]
    return [*program, allow]


def enter(settings):
    """Put everything in force that this system has; returns {part: "on" or why not}."""
    limit_resources(settings["nofile"], settings["fsize"], settings["memory"])
    if not settings["enforce"]:
        return {"landlock": "off: not asked for", "seccomp": "off: not asked for"}
    note = {}
    try:
        checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        note["landlock"] = f"on, ABI {restrict_files(settings['read'], settings['write'], settings['gpu'])}"
    except OSError as error:
        note["landlock"] = f"off: {error}"
    try:
        filter_calls(settings["gpu"])
        note["seccomp"] = "on"
    except OSError as error:
        note["seccomp"] = f"off: {error}"
    return note


def main(note_fd, settings, script, *arguments):
    note = enter(json.loads(settings))
    os.write(int(note_fd), json.dumps({"status": "sandbox", "note": note}).encode() + b"\n")
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
