//! A running agent and its page.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A page that takes longer than this doesn't come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running agent. Dropping it kills it.
pub(crate) struct Agent {
    child: Child,
    address: String,
}

impl Agent {
    /// Starts `program` with these arguments besides the usual ones, and waits for its page.
    #[allow(dead_code, reason = "not every test that includes this file asks for it")]
    pub(crate) fn start(program: Command, more: &[&str]) -> Self {
        Self::start_with_state(program, "none", more)
    }

    /// The same with a state folder.
    #[allow(dead_code, reason = "not every test that includes this file asks for it")]
    pub(crate) fn start_with_state(mut program: Command, state: &str, more: &[&str]) -> Self {
        program.args(["run", "--listen", "127.0.0.1:0", "--state", state]).args(more);
        let child = program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut agent = Self { child, address: String::new() };
        let mut said = String::new();
        for line in BufReader::new(agent.child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            said.push_str(&line);
            said.push('\n');
            if let Some((_, address)) = line.split_once("metrics at http://") {
                address.trim_end_matches("/metrics").clone_into(&mut agent.address);
                return agent;
            }
        }
        panic!("the agent ended:\n{said}");
    }

    /// Its process id.
    #[allow(dead_code, reason = "not every test that includes this file asks for it")]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its page, with the head of the answer.
    pub(crate) fn page(&self) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
