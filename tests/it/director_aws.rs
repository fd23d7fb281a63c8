//! `aws-asg` against PyPI's moto: boto3 makes the group and judges what became of it. Between us and moto stands
//! somebody who does to the calls what Amazon and networks do: throttle, fail, hang, cut off, and answer late.

use std::collections::{BTreeSet, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rezcache::director::provision::{AwsConfig, AwsProvisioner, AwsTimes, ProvisionError, Provisioner};
use rezcache::fleet::array::NodeSpec;
use serde_json::{Value, json};

use crate::support::fake_grid::{Asked, FakeGrid, Gate, Reply};
use crate::support::moto::Moto;
use crate::support::within;

/// What the one in between does with a call.
#[derive(Clone)]
enum Fault {
    /// Answers so, and moto never hears of it.
    Answer(&'static str, &'static str),
    /// Closes without a word; moto has heard of it when `after`.
    Reset { after: bool },
    /// Says less than it promised.
    Short,
    /// Half of an answer that says it is whole.
    Half,
    /// Says nothing until the end of the test.
    Hang,
}

const THROTTLED: Fault = Fault::Answer(
    "400 Bad Request",
    "<ErrorResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\"><Error><Type>Sender</Type>\
     <Code>Throttling</Code><Message>Rate exceeded</Message></Error><RequestId>x</RequestId></ErrorResponse>",
);
const EXPIRED: Fault = Fault::Answer(
    "403 Forbidden",
    "<ErrorResponse><Error><Code>ExpiredToken</Code><Message>The security token included in the request is \
     expired</Message></Error></ErrorResponse>",
);

type Change = Arc<dyn Fn(&str, String) -> String + Send + Sync>;

struct Stage {
    moto: Moto,
    between: FakeGrid,
    faults: Arc<Mutex<VecDeque<(&'static str, Fault)>>>,
    /// What is done to moto's answers, by action.
    change: Arc<Mutex<Option<Change>>>,
    metadata: FakeGrid,
    lent: Arc<AtomicBool>,
}

impl Stage {
    /// A group of at most `maximum` with so many instances.
    async fn start(minimum: u32, maximum: u32, desired: u32) -> Self {
        let moto = Moto::start().await;
        moto.boto(&format!(
            "vpc = ec2.create_vpc(CidrBlock='10.0.0.0/16')['Vpc']['VpcId']\n\
             subnet = ec2.create_subnet(VpcId=vpc, CidrBlock='10.0.1.0/24')['Subnet']['SubnetId']\n\
             image = ec2.describe_images(Owners=['amazon'])['Images'][0]['ImageId']\n\
             ec2.create_launch_template(LaunchTemplateName='rez', LaunchTemplateData={{'ImageId': image, \
             'InstanceType': 't3.micro'}})\n\
             asg.create_auto_scaling_group(AutoScalingGroupName='rez', LaunchTemplate={{'LaunchTemplateName': 'rez'}}, \
             MinSize={minimum}, MaxSize={maximum}, DesiredCapacity={desired}, VPCZoneIdentifier=subnet)\n\
             asg.suspend_processes(AutoScalingGroupName='rez', ScalingProcesses=['AZRebalance'])"
        ));
        let (faults, change) = (Arc::new(Mutex::new(VecDeque::new())), Arc::new(Mutex::new(None)));
        let between = FakeGrid::start().await;
        let (planned, changed, port) = (Arc::clone(&faults), Arc::clone(&change), moto.port);
        between.otherwise(move |asked| answer(asked, port, &planned, &changed));
        let (metadata, lent) = (FakeGrid::start().await, Arc::new(AtomicBool::new(true)));
        metadata.on("/latest/api/token", |_| Reply::ok("text/plain", "t0ken"));
        metadata.on("/latest/meta-data/iam/security-credentials/", |_| Reply::ok("text/plain", "role\n"));
        let has = Arc::clone(&lent);
        metadata.on("/latest/meta-data/iam/security-credentials/role", move |asked| {
            assert_eq!(asked.header("x-aws-ec2-metadata-token"), Some("t0ken"));
            let keys = json!({ "AccessKeyId": "a", "SecretAccessKey": "SECRET-b", "Token": "SECRET-c" });
            match has.load(Ordering::Relaxed) {
                true => Reply::ok("application/json", keys.to_string()),
                false => Reply::new("404 Not Found", &[], ""),
            }
        });
        Self { moto, between, faults, change, metadata, lent }
    }

    fn config(&self) -> AwsConfig {
        let ms = Duration::from_millis;
        AwsConfig {
            group: "rez".into(),
            region: "us-east-1".into(),
            port: 8443,
            private: true,
            endpoint: Some(self.between.url("")),
            metadata: Some(self.metadata.url("")),
            times: AwsTimes {
                patience: ms(1500),
                pause: ms(20),
                look: ms(50),
                settles: ms(1500),
                appears: ms(3000),
            },
        }
    }

    fn provisioner(&self) -> AwsProvisioner {
        AwsProvisioner::new(self.config()).unwrap()
    }

    /// The next call of this action meets this.
    fn fault(&self, action: &'static str, fault: Fault) {
        self.faults.lock().unwrap().push_back((action, fault));
    }

    fn met_all(&self) -> bool {
        self.faults.lock().unwrap().is_empty()
    }

    fn change(&self, change: impl Fn(&str, String) -> String + Send + Sync + 'static) {
        *self.change.lock().unwrap() = Some(Arc::new(change));
    }

    /// Desired capacity and instances, as boto3 sees them.
    fn group(&self) -> (u64, BTreeSet<String>) {
        let said = self.moto.boto(
            "import json; group = asg.describe_auto_scaling_groups()['AutoScalingGroups'][0]\n\
             print(json.dumps([group['DesiredCapacity'], [i['InstanceId'] for i in group['Instances']]]))",
        );
        let said: Value = serde_json::from_str(&said).unwrap();
        let names = said[1].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        (said[0].as_u64().unwrap(), names.collect())
    }

    /// Address and state of an instance, as boto3 sees them.
    fn instance(&self, id: &str) -> String {
        let code = format!(
            "i = ec2.describe_instances(InstanceIds=['{id}'])['Reservations'][0]['Instances'][0]\n\
             print(i.get('PrivateIpAddress'), i.get('PublicIpAddress'), i['State']['Name'])"
        );
        self.moto.boto(&code).trim().to_owned()
    }

    /// How often an action was asked for.
    fn asked(&self, action: &str) -> usize {
        self.between.all_asked().iter().filter(|asked| action_of(asked) == action).count()
    }
}

fn action_of(asked: &Asked) -> String {
    let body = String::from_utf8_lossy(&asked.body).into_owned();
    body.split('&').find_map(|part| part.strip_prefix("Action=")).unwrap_or_default().to_owned()
}

fn answer(
    asked: &Asked,
    port: u16,
    faults: &Mutex<VecDeque<(&'static str, Fault)>>,
    change: &Mutex<Option<Change>>,
) -> Reply {
    let action = action_of(asked);
    let fault = {
        let mut faults = faults.lock().unwrap();
        let place = faults.iter().position(|(name, _)| *name == action);
        place.and_then(|place| faults.remove(place)).map(|(_, fault)| fault)
    };
    let forwarded = || forward(asked, port);
    match fault {
        Some(Fault::Answer(status, body)) => Reply::new(status, &[("Content-Type", "text/xml")], body),
        Some(Fault::Reset { after }) => {
            if after {
                forwarded();
            }
            Reply::none()
        }
        Some(Fault::Short) => {
            Reply::raw_head("200 OK", &[("Content-Length", "9000")]).then_bytes(b"<Desc").then_close()
        }
        Some(Fault::Half) => {
            let body = forwarded().1;
            Reply::ok("text/xml", &body[..body.len() / 2])
        }
        Some(Fault::Hang) => Reply::none().held_by(&Gate::closed()),
        None => {
            let (status, body) = forwarded();
            let change = change.lock().unwrap().clone();
            let body = String::from_utf8(body).unwrap();
            let body = change.map_or(body.clone(), |change| change(&action, body));
            Reply::new(&status, &[("Content-Type", "text/xml")], body)
        }
    }
}

/// Asks moto; its status line and its body.
fn forward(asked: &Asked, port: u16) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut text = format!("POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n");
    for name in ["authorization", "content-type", "x-amz-date", "x-amz-security-token"] {
        if let Some(value) = asked.header(name) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n", asked.body.len()));
    stream.write_all(text.as_bytes()).unwrap();
    stream.write_all(&asked.body).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let end = all.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let status = head.lines().next().unwrap().split_once(' ').unwrap().1.to_owned();
    (status, all[end..].to_vec())
}

async fn open(provisioner: &AwsProvisioner, name: &str) -> Result<NodeSpec, ProvisionError> {
    within(provisioner.open(name.into(), Vec::new())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_capacity_is_set_and_exactly_the_chosen_instance_is_terminated() {
    let stage = Stage::start(0, 4, 1).await;
    let provisioner = stage.provisioner();
    let (_, first) = stage.group();
    let otter = open(&provisioner, "otter").await.unwrap();
    let (desired, two) = stage.group();
    assert_eq!((desired, two.len()), (2, 2));
    assert!(two.contains(&otter.handle) && !first.contains(&otter.handle));
    let told = stage.instance(&otter.handle);
    assert_eq!(told.split(' ').next().unwrap(), otter.addresses[0].to_string());
    assert_eq!(otter.url, format!("https://{}:8443", otter.addresses[0]));
    // Two at once are two.
    let (lynx, heron) = tokio::join!(open(&provisioner, "lynx"), open(&provisioner, "heron"));
    let (lynx, heron) = (lynx.unwrap(), heron.unwrap());
    assert_ne!(lynx.handle, heron.handle);
    let (desired, four) = stage.group();
    assert_eq!((desired, four.len()), (4, 4));
    // moto would take more.
    let full = open(&provisioner, "emu").await.unwrap_err().to_string();
    assert_eq!(full, "AWS failed: the group rez is at its maximum of 4; raise it, or lower the director's");
    assert_eq!(stage.group().0, 4);

    within(provisioner.close(lynx.clone())).await.unwrap();
    let (desired, rest) = stage.group();
    let mut wanted = four.clone();
    wanted.remove(&lynx.handle);
    assert_eq!((desired, &rest), (3, &wanted), "that one, and no other instead of it");
    assert!(stage.instance(&lynx.handle).ends_with("terminated"));
    // Gone already: done.
    within(provisioner.close(lynx)).await.unwrap();
    assert_eq!(stage.group(), (3, wanted));

    // Another director, after a change of the lead.
    within(stage.provisioner().close(heron)).await.unwrap();
    assert_eq!(stage.group().0, 2);
    assert!(stage.metadata.asked("/latest/api/token").len() < 4, "keys are kept for a while");
    assert!(!format!("{provisioner:?}").contains("SECRET"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn throttling_errors_and_broken_connections_are_survived() {
    let stage = Stage::start(0, 4, 1).await;
    let provisioner = stage.provisioner();
    for action in ["DescribeAutoScalingGroups", "SetDesiredCapacity", "DescribeInstances"] {
        stage.fault(action, THROTTLED);
        stage.fault(action, Fault::Answer("503 Service Unavailable", ""));
        stage.fault(action, Fault::Reset { after: true });
        stage.fault(action, Fault::Short);
    }
    let otter = open(&provisioner, "otter").await.unwrap();
    assert!(stage.met_all());
    assert_eq!(stage.group().0, 2, "asked for again and again, it is one more");
    for action in ["DescribeAutoScalingGroups", "DescribeInstances", "SetDesiredCapacity"] {
        stage.fault(action, Fault::Half);
        stage.fault(action, Fault::Hang);
        stage.fault(action, Fault::Answer("500 Internal Server Error", "<html>no"));
    }
    let lynx = open(&provisioner, "lynx").await.unwrap();
    assert!(stage.met_all());
    assert_eq!(stage.group().0, 3);
    assert_ne!(otter.handle, lynx.handle);

    // The answer to a termination is lost: it is not done twice.
    let action = "TerminateInstanceInAutoScalingGroup";
    stage.fault(action, THROTTLED);
    stage.fault(action, Fault::Reset { after: true });
    within(provisioner.close(lynx.clone())).await.unwrap();
    let (desired, instances) = stage.group();
    assert_eq!(
        (desired, instances.contains(&lynx.handle), instances.contains(&otter.handle)),
        (2, false, true)
    );
    assert_eq!(stage.asked(action), 2);

    // It does not try for ever, and waits longer each time.
    for _ in 0..6 {
        stage.fault("DescribeAutoScalingGroups", THROTTLED);
    }
    let began = Instant::now();
    let error = open(&provisioner, "emu").await.unwrap_err().to_string();
    assert_eq!(error, "AWS failed: Throttling: Rate exceeded");
    assert!(stage.met_all());
    assert!(began.elapsed() >= Duration::from_millis(20 + 40 + 80 + 160 + 320));
    assert_eq!(stage.group().0, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_that_expire_are_asked_for_anew_and_missing_ones_are_told() {
    let stage = Stage::start(0, 4, 0).await;
    let provisioner = stage.provisioner();
    stage.fault("DescribeAutoScalingGroups", EXPIRED);
    open(&provisioner, "otter").await.unwrap();
    assert_eq!(stage.metadata.asked("/latest/api/token").len(), 2);
    for _ in 0..6 {
        stage.fault("DescribeAutoScalingGroups", EXPIRED);
    }
    let error = open(&provisioner, "lynx").await.unwrap_err().to_string();
    assert_eq!(error, "AWS failed: ExpiredToken: The security token included in the request is expired");
    stage.lent.store(false, Ordering::Relaxed);
    let error = open(&stage.provisioner(), "lynx").await.unwrap_err().to_string();
    assert!(error.contains("the instance's role is not to be had"), "{error}");
    assert!(!error.contains("http://"), "{error}");
    assert_eq!(stage.group().0, 1);
    let denied = Fault::Answer(
        "403 Forbidden",
        "<ErrorResponse><Error><Code>AccessDenied</Code><Message>User is not authorized</Message></Error>\
         </ErrorResponse>",
    );
    stage.lent.store(true, Ordering::Relaxed);
    stage.fault("SetDesiredCapacity", denied);
    let error = open(&provisioner, "lynx").await.unwrap_err().to_string();
    assert_eq!(error, "AWS failed: AccessDenied: User is not authorized");
}

/// moto starts instances at once; Amazon does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_instance_that_never_comes_is_not_asked_for_any_more() {
    let stage = Stage::start(0, 4, 1).await;
    let (_, first) = stage.group();
    let known = first.iter().next().unwrap().clone();
    // Only the first instance is ever seen.
    let hide = move |action: &str, body: String| -> String {
        if action != "DescribeAutoScalingGroups" {
            return body;
        }
        let Some((head, rest)) = body.split_once("<Instances>") else { return body };
        let (members, tail) = rest.split_once("</Instances>").unwrap();
        let members = members.split_inclusive("</ProtectedFromScaleIn></member>");
        let seen: String = members.filter(|member| member.contains(&known)).collect();
        format!("{head}<Instances>{seen}</Instances>{tail}")
    };
    stage.change(hide);
    let provisioner = stage.provisioner();
    let error = open(&provisioner, "otter").await.unwrap_err().to_string();
    assert_eq!(error, "the group rez took too long");
    assert_eq!(stage.group().0, 1, "what nobody waits for any more must not come and cost");

    // Asked for by a director that has died since: waited for, and taken over, not asked for twice.
    stage.moto.boto("asg.set_desired_capacity(AutoScalingGroupName='rez', DesiredCapacity=2)");
    let asked = stage.asked("SetDesiredCapacity");
    let changes = Arc::clone(&stage.change);
    let opening = tokio::spawn(async move { provisioner.open("lynx".into(), Vec::new()).await });
    tokio::time::sleep(Duration::from_millis(2500)).await;
    *changes.lock().unwrap() = None;
    let lynx = within(opening).await.unwrap().unwrap();
    assert_eq!(stage.asked("SetDesiredCapacity"), asked);
    let (desired, instances) = stage.group();
    assert_eq!((desired, instances.contains(&lynx.handle)), (2, true));

    // It is there, and never gets an address.
    stage.change(|action, body| {
        if action == "DescribeInstances" { body.replace("rivateIpAddress>", "rivateNothing>") } else { body }
    });
    let error = open(&stage.provisioner(), "heron").await.unwrap_err().to_string();
    assert_eq!(error, "the group rez took too long");
    assert_eq!(stage.group(), (2, instances));

    // A group that launches nothing says so at once.
    stage.moto.boto("asg.suspend_processes(AutoScalingGroupName='rez', ScalingProcesses=['Launch'])");
    let error = open(&stage.provisioner(), "heron").await.unwrap_err().to_string();
    assert!(error.contains("process Launch of the group rez is suspended"), "{error}");
}

/// The signature, computed by botocore over the same request, is ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_are_signed_as_botocore_signs_them() {
    let stage = Stage::start(0, 4, 0).await;
    open(&stage.provisioner(), "otter").await.unwrap();
    let asked = stage.between.all_asked();
    assert!(asked.len() >= 3);
    for asked in asked {
        let header = |name: &str| asked.header(name).unwrap().to_owned();
        let authorization = header("authorization");
        let service = authorization.split('/').nth(3).unwrap().to_owned();
        let request = json!({
            "url": stage.between.url("/"), "body": String::from_utf8(asked.body.clone()).unwrap(),
            "type": header("content-type"), "date": header("x-amz-date"), "service": service,
        });
        let code = format!(
            "import json, botocore.auth, botocore.awsrequest, botocore.credentials\n\
             r = json.loads({:?})\n\
             keys = botocore.credentials.Credentials('a', 'SECRET-b', 'SECRET-c')\n\
             auth = botocore.auth.SigV4Auth(keys, r['service'], 'us-east-1')\n\
             request = botocore.awsrequest.AWSRequest('POST', r['url'], {{'Content-Type': r['type']}}, r['body'])\n\
             request.context['timestamp'] = r['date']\n\
             request.headers['X-Amz-Date'] = r['date']\n\
             request.headers['X-Amz-Security-Token'] = 'SECRET-c'\n\
             text = auth.string_to_sign(request, auth.canonical_request(request))\n\
             print(auth.signature(text, request), auth.signed_headers(auth.headers_to_sign(request)))",
            request.to_string()
        );
        let said = stage.moto.boto(&code);
        let (signature, names) = said.trim().split_once(' ').unwrap();
        assert!(
            authorization.ends_with(&format!("SignedHeaders={names}, Signature={signature}")),
            "{authorization}\n{said}"
        );
    }
}
