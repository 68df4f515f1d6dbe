//! Which virtual machine a process is, from its command line alone.
//!
//! The base name of `argv[0]` decides, so that `grep qemu-system-x86_64` is no VM. Options are spelled as in
//! `man qemu-system` (a comma in a value is doubled), Firecracker's and Cloud Hypervisor's `--help`, and
//! `VBoxHeadless --help`.

use std::borrow::Cow;

use serde::Serialize;

/// What runs the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hypervisor {
    /// QEMU with KVM.
    Kvm,
    /// QEMU that emulates the processor, or doesn't say.
    Qemu,
    /// QEMU as the device model of a Xen guest.
    Xen,
    /// Firecracker.
    Firecracker,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// VirtualBox.
    Virtualbox,
    /// VMware Workstation.
    Vmware,
}

impl Hypervisor {
    /// The name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
            Self::Xen => "xen",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Virtualbox => "virtualbox",
            Self::Vmware => "vmware",
        }
    }
}

/// Who started the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// libvirt.
    Libvirt,
    /// Proxmox VE.
    Proxmox,
    /// OpenStack Nova, through libvirt.
    OpenStack,
    /// KubeVirt, through libvirt.
    KubeVirt,
    /// Nobody known: a person or a script.
    Plain,
}

impl Manager {
    /// The name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Libvirt => "libvirt",
            Self::Proxmox => "proxmox",
            Self::OpenStack => "openstack",
            Self::KubeVirt => "kubevirt",
            Self::Plain => "plain",
        }
    }
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Vm {
    /// The name that its owner gave it.
    pub name: Option<String>,
    /// Its UUID, in lower case with dashes.
    pub uuid: Option<String>,
    /// What its manager calls it beside the name: the number of a Proxmox VM (as in `qemu.slice/100.scope`),
    /// Firecracker's `--id`.
    pub id: Option<String>,
    /// What runs it.
    pub hypervisor: Hypervisor,
    /// Who started it.
    pub manager: Manager,
}

impl Vm {
    fn new(hypervisor: Hypervisor) -> Self {
        Self { name: None, uuid: None, id: None, hypervisor, manager: Manager::Plain }
    }
}

/// Reads `/proc/PID/cmdline`, arguments separated by NUL. `None` if the process is no VM.
pub fn identify(cmdline: &[u8]) -> Option<Vm> {
    let mut argv = cmdline.split(|&b| b == 0);
    let program = argv.next()?.rsplit(|&b| b == b'/').next()?;
    let args = Args(argv);
    match program {
        b"firecracker" => Some(firecracker(args)),
        b"cloud-hypervisor" => Some(cloud_hypervisor(args)),
        b"VBoxHeadless" | b"VirtualBoxVM" | b"VirtualBox" => virtualbox(args),
        b"vmware-vmx" => Some(vmware(args)),
        _ => {
            // NixOS wraps programs as `.qemu-system-x86_64-wrapped`.
            let program = program.strip_prefix(b".").unwrap_or(program);
            let named_kvm = matches!(program, b"kvm" | b"qemu-kvm" | b"kvm-spice" | b"qemu-kvm-spice");
            let is_qemu = named_kvm || program.starts_with(b"qemu-system-") || program == b"qemu-dm";
            if is_qemu { qemu(args, named_kvm) } else { None }
        }
    }
}

/// The arguments after the program's name.
struct Args<I>(I);

impl<'a, I: Iterator<Item = &'a [u8]>> Args<I> {
    fn next(&mut self) -> Option<Cow<'a, str>> {
        self.0.next().map(String::from_utf8_lossy)
    }

    /// The next option without its dashes, and its value if it is joined by `=`. Other arguments are passed over.
    fn option(&mut self) -> Option<(String, Option<String>)> {
        loop {
            let arg = self.next()?;
            let Some(bare) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else { continue };
            return Some(match bare.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (bare.to_owned(), None),
            });
        }
    }

    /// The value of an option: what was joined by `=`, or else the next argument.
    fn value(&mut self, joined: Option<String>) -> Option<String> {
        joined.or_else(|| self.next().map(Cow::into_owned)).filter(|v| !v.is_empty())
    }
}

fn qemu<'a>(mut args: Args<impl Iterator<Item = &'a [u8]>>, named_kvm: bool) -> Option<Vm> {
    let mut vm = Vm::new(Hypervisor::Qemu);
    let (mut kvm, mut tcg, mut xen) = (named_kvm, false, false);
    let (mut libvirt, mut openstack, mut kubevirt) = (false, false, false);
    let mut smbios_uuid = None;
    let mut accelerator = |list: &str| match list.split(':').next() {
        Some("kvm") => kvm = true,
        Some("tcg") => tcg = true,
        Some("xen") => xen = true,
        _ => {}
    };
    while let Some(arg) = args.next() {
        libvirt |= arg.contains("/libvirt/");
        kubevirt |= arg.contains("/kubevirt-private/");
        let Some(option) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else { continue };
        match option {
            "enable-kvm" => accelerator("kvm"),
            "xen-attach" => accelerator("xen"),
            "xen-domid" => {
                accelerator("xen");
                args.next();
            }
            "accel" | "machine" | "M" => {
                let Some(value) = args.next() else { break };
                for (key, value) in options(&value) {
                    match key.as_deref().filter(|&k| k != "type") {
                        // A capability probe of libvirt's, not a machine.
                        None if option != "accel" && value == "none" => return None,
                        None if option != "accel" && value.starts_with("xen") => accelerator("xen"),
                        Some("accel") => accelerator(&value),
                        None if option == "accel" => accelerator(&value),
                        _ => {}
                    }
                }
            }
            "name" => {
                let Some(value) = args.next() else { break };
                vm.name = options(&value)
                    .into_iter()
                    .find(|(key, _)| key.as_deref().is_none_or(|k| k == "guest"))
                    .map(|(_, name)| name)
                    .filter(|n| !n.is_empty());
            }
            "uuid" => vm.uuid = args.next().and_then(|v| uuid(&v)),
            // Proxmox' own addition to QEMU.
            "id" => vm.id = args.next().filter(|v| is_number(v)).map(Cow::into_owned),
            "smbios" => {
                let Some(value) = args.next() else { break };
                for (key, value) in options(&value) {
                    match key.as_deref() {
                        Some("uuid") => smbios_uuid = uuid(&value),
                        Some("product" | "manufacturer") => {
                            openstack |= value.contains("OpenStack");
                            kubevirt |= value == "KubeVirt";
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    vm.uuid = vm.uuid.or(smbios_uuid);
    vm.hypervisor = match (xen, kvm, tcg) {
        (true, ..) => Hypervisor::Xen,
        // A program named kvm uses it unless told otherwise.
        (_, true, false) => Hypervisor::Kvm,
        (_, true, true) if !named_kvm => Hypervisor::Kvm,
        _ => Hypervisor::Qemu,
    };
    vm.manager = if kubevirt {
        Manager::KubeVirt
    } else if openstack || vm.name.as_deref().is_some_and(is_nova_name) {
        Manager::OpenStack
    } else if libvirt {
        Manager::Libvirt
    } else if vm.id.is_some() {
        Manager::Proxmox
    } else {
        Manager::Plain
    };
    Some(vm)
}

fn firecracker<'a>(mut args: Args<impl Iterator<Item = &'a [u8]>>) -> Vm {
    let mut vm = Vm::new(Hypervisor::Firecracker);
    while let Some((key, joined)) = args.option() {
        if key == "id" {
            vm.id = args.value(joined);
        }
    }
    vm.uuid = vm.id.as_deref().and_then(uuid);
    vm.name.clone_from(&vm.id);
    vm
}

fn cloud_hypervisor<'a>(mut args: Args<impl Iterator<Item = &'a [u8]>>) -> Vm {
    let mut vm = Vm::new(Hypervisor::CloudHypervisor);
    while let Some((key, joined)) = args.option() {
        match key.as_str() {
            "platform" => {
                let value = args.value(joined).unwrap_or_default();
                vm.uuid = options(&value)
                    .into_iter()
                    .find(|(key, _)| key.as_deref() == Some("uuid"))
                    .and_then(|(_, value)| uuid(&value));
            }
            "api-socket" => {
                let value = args.value(joined).unwrap_or_default();
                // libvirt's driver names the socket after the machine.
                if let Some(name) = value.rsplit_once("/libvirt/ch/").and_then(|(_, s)| s.strip_suffix("-socket")) {
                    vm.manager = Manager::Libvirt;
                    vm.name = Some(name.to_owned()).filter(|n| !n.is_empty());
                }
            }
            _ => {}
        }
    }
    vm
}

fn virtualbox<'a>(mut args: Args<impl Iterator<Item = &'a [u8]>>) -> Option<Vm> {
    let mut vm = Vm::new(Hypervisor::Virtualbox);
    let mut started = false;
    while let Some((key, joined)) = args.option() {
        match key.as_str() {
            "comment" => vm.name = args.value(joined),
            "startvm" | "s" => {
                let which = args.value(joined)?;
                started = true;
                vm.uuid = uuid(which.trim_matches(['{', '}']));
                if vm.uuid.is_none() && vm.name.is_none() {
                    vm.name = Some(which);
                }
            }
            _ => {}
        }
    }
    // Without a machine it is the manager's window.
    started.then_some(vm)
}

fn vmware<'a>(mut args: Args<impl Iterator<Item = &'a [u8]>>) -> Vm {
    let mut vm = Vm::new(Hypervisor::Vmware);
    while let Some(arg) = args.next() {
        if let Some(path) = arg.strip_suffix(".vmx") {
            vm.name = path.rsplit('/').next().filter(|n| !n.is_empty()).map(str::to_owned);
        }
    }
    vm
}

/// QEMU's `KEY=VALUE,VALUE,…` with doubled commas undone.
fn options(text: &str) -> Vec<(Option<String>, String)> {
    let mut found = Vec::new();
    let mut item = String::new();
    let mut chars = text.chars().peekable();
    loop {
        match chars.next() {
            Some(',') if chars.peek() == Some(&',') => {
                chars.next();
                item.push(',');
            }
            Some(c) if c != ',' => item.push(c),
            end => {
                found.push(match item.split_once('=') {
                    Some((key, value)) => (Some(key.to_owned()), value.to_owned()),
                    None => (None, std::mem::take(&mut item)),
                });
                item.clear();
                if end.is_none() {
                    return found;
                }
            }
        }
    }
}

fn uuid(text: &str) -> Option<String> {
    let ok = text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        });
    ok.then(|| text.to_ascii_lowercase())
}

/// Nova's default `instance_name_template`.
fn is_nova_name(name: &str) -> bool {
    name.strip_prefix("instance-").is_some_and(|n| n.len() == 8 && n.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const U: &str = "c1f0a2de-93b4-4c55-8d66-0123456789ab";

    /// `argv` is written with spaces between the arguments and `_` for a space in one.
    fn seen(argv: &str) -> String {
        let argv = argv.replace("<U>", U).replace(' ', "\0").replace('_', " ").replace("x86 64", "x86_64");
        match identify(argv.as_bytes()) {
            None => "none".to_owned(),
            Some(vm) => {
                let show = |o: Option<String>| o.unwrap_or_else(|| "-".to_owned()).replace(U, "<U>");
                let (hypervisor, manager) = (vm.hypervisor.as_str(), vm.manager.as_str());
                format!("{hypervisor} {manager} {} {} {}", show(vm.name), show(vm.uuid), show(vm.id))
            }
        }
    }

    #[test]
    fn command_lines_tell_the_machine() {
        for (argv, want) in [
            (
                "/usr/bin/qemu-system-x86_64 -name guest=win-build,debug-threads=on -S -object {\"file\":\"/var/lib/libvirt/qemu/domain-1/master-key.aes\"} \
                 -machine pc-q35-8.2,usb=off,accel=kvm -uuid <U> -smp 4",
                "kvm libvirt win-build <U> -",
            ),
            (
                "/usr/libexec/qemu-kvm -name guest=instance-0000001a,debug-threads=on -uuid <U>",
                "kvm openstack instance-0000001a <U> -",
            ),
            (
                "/usr/bin/qemu-system-x86_64 -accel kvm -name guest=web -smbios type=1,manufacturer=OpenStack_Foundation,product=OpenStack_Nova,uuid=<U>",
                "kvm openstack web <U> -",
            ),
            (
                "/usr/bin/kvm -id 100 -name win,debug-threads=on -no-shutdown -smbios type=1,uuid=<U> -machine type=q35+pve0",
                "kvm proxmox win <U> 100",
            ),
            ("/usr/bin/kvm -id 101 -name slow -machine accel=tcg,type=pc", "qemu proxmox slow - 101"),
            (
                "/usr/libexec/qemu-kvm -name guest=shop_vm1 -smbios type=1,manufacturer=KubeVirt,product=None -chardev socket,path=/var/run/libvirt/x",
                "kvm kubevirt shop vm1 - -",
            ),
            ("qemu-system-aarch64 -name foo -accel tcg,thread=multi", "qemu plain foo - -"),
            ("qemu-system-x86_64 -name a,,b=c -enable-kvm", "kvm plain - - -"),
            ("qemu-system-x86_64 -name a,,b,process=x --enable-kvm", "kvm plain a,b - -"),
            ("qemu-system-x86_64 -machine q35,accel=kvm:tcg", "kvm plain - - -"),
            ("qemu-system-x86_64 -uuid nonsense -name", "qemu plain - - -"),
            ("qemu-system-x86_64 -uuid nonsense -m 1", "qemu plain - - -"),
            ("/run/.qemu-system-x86_64-wrapped -name nix", "qemu plain nix - -"),
            ("/usr/lib/xen/bin/qemu-system-i386 -xen-domid 5 -name guest1 -machine xenfv", "xen plain guest1 - -"),
            ("qemu-system-x86_64 -S -nodefaults -machine none,accel=kvm:tcg -qmp unix:/x", "none"),
            ("/firecracker --id vm-7 --start-time-us 1", "firecracker plain vm-7 - vm-7"),
            ("firecracker --id=<U> --api-sock /run/f", "firecracker plain <U> <U> <U>"),
            ("firecracker --no-api", "firecracker plain - - -"),
            (
                "cloud-hypervisor --api-socket /run/libvirt/ch/db-socket --platform serial_number=1,uuid=<U>",
                "cloud-hypervisor libvirt db <U> -",
            ),
            ("cloud-hypervisor --kernel k", "cloud-hypervisor plain - - -"),
            (
                "/usr/lib/virtualbox/VBoxHeadless --comment box --startvm <U> --vrde config",
                "virtualbox plain box <U> -",
            ),
            ("VirtualBoxVM --startvm box", "virtualbox plain box - -"),
            ("/usr/lib/virtualbox/VirtualBox", "none"),
            ("/usr/lib/vmware/bin/vmware-vmx -s x=y /home/u/vms/Win_11.vmx", "vmware plain Win 11 - -"),
            ("grep qemu-system-x86_64 -name foo", "none"),
            ("vi qemu-system.txt", "none"),
            ("/usr/bin/python3 /usr/bin/qemu-system-x86_64", "none"),
            ("/usr/bin/qemu-img convert", "none"),
            ("/usr/sbin/qemu-ga --daemonize", "none"),
            ("", "none"),
        ] {
            assert_eq!(seen(argv), want, "{argv}");
        }
    }

    proptest! {
        #[test]
        fn names_survive_the_escaping_of_commas(name in "[^\0]{1,40}", uuid in proptest::option::of(Just(U))) {
            let mut line = format!("/usr/bin/qemu-system-x86_64\0-name\0guest={},debug-threads=on\0", name.replace(',', ",,"));
            if let Some(uuid) = uuid {
                line.push_str(&format!("-uuid\0{}\0", uuid.to_uppercase()));
            }
            let vm = identify(line.as_bytes()).unwrap();
            prop_assert_eq!(vm.name, Some(name));
            prop_assert_eq!(vm.uuid.as_deref(), uuid);
        }

        #[test]
        fn any_arguments_are_read(
            program in prop_oneof![
                "[a-zA-Z-]{0,12}",
                proptest::sample::select(&["kvm", "qemu-system-x86_64", "firecracker", "cloud-hypervisor", "VirtualBoxVM", "vmware-vmx"][..]).prop_map(str::to_owned),
            ],
            args in proptest::collection::vec(
                prop_oneof![
                    any::<Vec<u8>>(),
                    proptest::sample::select(&["-name", "-machine", "-accel", "--id", "--platform", "-smbios", "--startvm", "a,,=b,"][..])
                        .prop_map(|s| s.as_bytes().to_vec()),
                ],
                0..6,
            ),
        ) {
            let mut line = program.clone().into_bytes();
            for arg in &args {
                line.push(0);
                line.extend_from_slice(arg);
            }
            if let Some(vm) = identify(&line) {
                prop_assert!(vm.name.is_none_or(|n| !n.is_empty()));
                prop_assert!(vm.uuid.is_none_or(|u| u.len() == 36));
            } else {
                // Programs that always are a machine are never passed over.
                prop_assert!(!matches!(program.as_str(), "firecracker" | "cloud-hypervisor" | "vmware-vmx"));
            }
        }
    }
}
