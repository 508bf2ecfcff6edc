//! Machines of one's own: network namespaces, joined by a bridge that is in one, too.
//!
//! Nothing of it touches the network of the machine that the test runs on: pairs of virtual
//! cables are made within the namespaces. They go with the value, however a test ends.

use std::process::{Command, Stdio};

/// Some namespaces with a way to each other.
pub(crate) struct Network {
    /// The first has the bridge.
    names: Vec<String>,
}

/// Runs `ip`; what it says if it cannot.
fn ip(words: &str) -> Result<(), String> {
    let ran = Command::new("ip").args(words.split(' ')).stdin(Stdio::null()).output();
    let ran = ran.map_err(|error| format!("ip cannot be run: {error}"))?;
    if ran.status.success() {
        return Ok(());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&ran.stderr).trim()))
}

impl Network {
    /// So many machines; why there are none, if the system does not let us.
    pub(crate) fn new(machines: usize) -> Result<Self, String> {
        let name = |number: usize| format!("alluvium-{}-{number}", std::process::id());
        let mut network = Self { names: Vec::new() };
        let bridge = name(0);
        network.add(&bridge)?;
        ip(&format!("-n {bridge} link add bridge type bridge"))?;
        ip(&format!("-n {bridge} link set bridge up"))?;
        for machine in 0..machines {
            let name = name(machine + 1);
            network.add(&name)?;
            let cable = format!("cable{machine}");
            let ends = format!("{cable} type veth peer name eth0 netns {name}");
            ip(&format!("-n {bridge} link add {ends}"))?;
            ip(&format!("-n {bridge} link set {cable} master bridge up"))?;
            ip(&format!("-n {name} addr add {}/24 dev eth0", address(machine)))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(network)
    }

    fn add(&mut self, name: &str) -> Result<(), String> {
        ip(&format!("netns add {name}"))?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// A program on a machine.
    pub(crate) fn command(&self, machine: usize, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[machine + 1]]).arg(program);
        command
    }

    /// Pulls a machine's cable: what it sends goes nowhere, and nobody is told.
    pub(crate) fn cut(&self, machine: usize) {
        ip(&format!("-n {} link set cable{machine} down", self.names[0])).unwrap();
    }

    /// Plugs it in again.
    pub(crate) fn mend(&self, machine: usize) {
        ip(&format!("-n {} link set cable{machine} up", self.names[0])).unwrap();
    }
}

/// The address of a machine.
pub(crate) fn address(machine: usize) -> String {
    format!("10.77.0.{}", machine + 1)
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = ip(&format!("netns del {name}")) {
                eprintln!("a namespace was left behind: {error}");
            }
        }
    }
}
