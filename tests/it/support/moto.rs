//! PyPI's `moto`: Amazon's services as others wrote them.

use std::process::{Child, Command, Stdio};

use crate::service::tools;

pub(crate) struct Moto {
    process: Child,
    pub(crate) port: u16,
}

impl Moto {
    pub(crate) async fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(tools().join("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        super::within(async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
        .await;
        Self { process, port }
    }

    /// It stops answering, and forgets nothing.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// It goes on.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Talks to it as a stranger's client does, by boto3's `s3`, `ec2` and `asg`; what it prints.
    pub(crate) fn boto(&self, code: &str) -> String {
        let program = format!(
            "import boto3, functools; client = functools.partial(boto3.client, endpoint_url='{}', \
             region_name='us-east-1', aws_access_key_id='a', aws_secret_access_key='b'); \
             s3, ec2, asg = client('s3'), client('ec2'), client('autoscaling')\n{code}",
            self.url()
        );
        let output = Command::new(tools().join("python")).args(["-c", &program]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
