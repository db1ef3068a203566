"""Secrets that nobody ever had: put together when a test runs, so that none stands in this repository."""

# ruff: noqa: E501, SIM905 (tables)

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable

_chance = random.Random(20)
_LETTERS = string.ascii_letters
_MIXED = _LETTERS + string.digits
_CAPITALS = string.ascii_uppercase + string.digits


def of(signs: str, length: int) -> str:
    return "".join(_chance.choice(signs) for _ in range(length))


def mixed(length: int) -> str:
    """Letters of both cases and digits, each at least once."""
    return "aZ4" + of(_MIXED, length - 3)


def hexadecimal(length: int) -> str:
    return "a1b" + of("0123456789abcdef", length - 3)


def base_64(length: int) -> str:
    return "aZ4" + of(_MIXED + "+/", length - 3)


def digits(length: int) -> str:
    return of("123456789", length)


def capitals(length: int) -> str:
    return "A4" + of(_CAPITALS, length - 2)


def key_block(kind: str) -> str:
    lines = "\n".join(base_64(64) for _ in range(8))
    return f"-----BEGIN {kind}PRIVATE" + f" KEY-----\n{lines}\n-----END {kind}PRIVATE" + " KEY-----\n"


def notebook(source: str, output: str = "") -> str:
    cell = {
        "cell_type": "code",
        "source": [source],
        "outputs": [{"output_type": "stream", "name": "stdout", "text": output}],
    }
    return json.dumps({"cells": [cell], "nbformat": 4, "nbformat_minor": 5})


Make = Callable[[], str]

CONTENTS: dict[str, Make] = {
    # Tokens by their form, in code, settings, notebooks, scripts
    "github.py": lambda: 'TOKEN = "gh' + f'p_{mixed(36)}"',
    "github-oauth.txt": lambda: "gh" + f"o_{mixed(36)}",
    "github-app.sh": lambda: "export T=gh" + f"s_{mixed(36)}",
    "github-fine.yaml": lambda: "token: github" + f"_pat_{mixed(22)}_{mixed(59)}",
    "gitlab.yml": lambda: "variables: {T: gl" + f"pat-{mixed(20)}}}",
    "slack-bot.py": lambda: 'bot("xo' + f'xb-{digits(12)}-{digits(12)}-{mixed(24)}")',
    "slack-hook.py": lambda: 'URL = "https://hooks.slack' + f'.com/services/T{capitals(8)}/B{capitals(8)}/{mixed(24)}"',
    "openai.py": lambda: 'OpenAI(api_key="sk' + f'-{mixed(48)}")',
    "openai-project.py": lambda: 'OpenAI("sk' + f'-proj-{mixed(48)}")',
    "openai-service.py": lambda: 'k = "sk' + f'-svcacct-{mixed(60)}"',
    "anthropic.py": lambda: 'Anthropic(api_key="sk' + f'-ant-api03-{mixed(93)}AA")',
    "anthropic-short.txt": lambda: "sk" + f"-ant-{mixed(40)}",
    "openrouter.py": lambda: 'k = "sk' + f'-or-v1-{hexadecimal(64)}"',
    "deepseek.py": lambda: 'k = "sk' + f'-{hexadecimal(32)}"',
    "hf.py": lambda: 'login("h' + f'f_{of(_LETTERS, 34)}")',
    "hf.ipynb": lambda: notebook("login()", "Your token:\nh" + f"f_{of(_LETTERS, 34)}\n"),
    "stripe.js": lambda: "sk" + f"_live_{mixed(24)}",
    "twilio.py": lambda: "S" + f"K{hexadecimal(32)}",
    "sendgrid.py": lambda: "S" + f"G.{mixed(22)}.{mixed(43)}",
    "mailgun.py": lambda: "ke" + f"y-{hexadecimal(32)}",
    "npm.yml": lambda: "np" + f"m_{mixed(36)}",
    "pypi.toml": lambda: "py" + f"pi-AgEIcHlwaS5vcmc{mixed(120)}",
    "rubygems.yml": lambda: "ruby" + f"gems_{hexadecimal(48)}",
    "crates.toml": lambda: 'token = "ci' + f'o{mixed(32)}"',
    "docker-pat.sh": lambda: "docker login -p dc" + f"kr_pat_{mixed(27)}",
    "databricks.py": lambda: "da" + f"pi{hexadecimal(32)}",
    "google.js": lambda: "AI" + f"za{mixed(35)}",
    "google-oauth.json": lambda: "GOC" + f"SPX-{mixed(28)}",
    "digitalocean.tf": lambda: "do" + f"p_v1_{hexadecimal(64)}",
    "replicate.py": lambda: "r8" + f"_{mixed(37)}",
    "groq.py": lambda: "gs" + f"k_{mixed(52)}",
    "xai.py": lambda: "xa" + f"i-{mixed(80)}",
    "perplexity.py": lambda: "pp" + f"lx-{mixed(48)}",
    "nvidia.py": lambda: "nv" + f"api-{mixed(64)}",
    "langsmith.py": lambda: "ls" + f"v2_pt_{hexadecimal(32)}_{hexadecimal(10)}",
    "pinecone.py": lambda: "pc" + f"sk_{mixed(6)}_{mixed(63)}",
    "notion.py": lambda: "nt" + f"n_{mixed(46)}",
    "airtable.py": lambda: "pa" + f"t{mixed(14)}.{hexadecimal(64)}",
    "postman.json": lambda: "PM" + f"AK-{hexadecimal(24)}-{hexadecimal(34)}",
    "shopify.py": lambda: "shp" + f"at_{hexadecimal(32)}",
    "newrelic.yml": lambda: "NR" + f"AK-{capitals(27)}",
    "grafana.ini": lambda: "gl" + f"sa_{mixed(32)}_{hexadecimal(8)}",
    "terraform-cloud.txt": lambda: f"{mixed(14)}.atl" + f"asv1.{mixed(67)}",
    "vault.sh": lambda: "hv" + f"s.{mixed(90)}",
    "supabase.ts": lambda: "sb" + f"p_{hexadecimal(40)}",
    "planetscale.env.ts": lambda: "ps" + f"cale_pw_{mixed(43)}",
    "tailscale.sh": lambda: "ts" + f"key-auth-{mixed(16)}-{mixed(32)}",
    "telegram.py": lambda: f'Bot("{digits(10)}:A' + f'A{mixed(33)}")',
    "telegram-url.sh": lambda: f"curl https://api.telegram.org/bot{digits(10)}:A" + f"A{mixed(33)}/getMe",
    "discord-hook.py": lambda: "https://discord" + f".com/api/webhooks/{digits(18)}/{mixed(68)}",
    "discord-bot.py": lambda: 'run("M' + f'{mixed(23)}.{mixed(6)}.{mixed(38)}")',
    "age.txt": lambda: "AGE-SEC" + "RET-KEY-1" + of("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58),
    "jwt.js": lambda: "ey" + f"J{mixed(20)}.ey" + f"J{mixed(40)}.{mixed(43)}",
    "azure-client.py": lambda: f"{mixed(3)}8Q~{mixed(34)}",
    "aws-id.py": lambda: "AKI" + f"A{capitals(16)}",
    "aws-session.sh": lambda: "ASI" + f"A{capitals(16)}",
    # by what stands around them
    "aws.ini": lambda: f"aws_secret_access_key = {base_64(40)}",
    "aws-json.json": lambda: f'{{"SecretAccessKey": "{base_64(40)}"}}',
    "aws.ipynb": lambda: notebook(f'os.environ["AWS_SECRET_ACCESS_KEY"] = "{base_64(40)}"'),
    "azure-storage.py": lambda: f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={base_64(86)}==",
    "azure-bus.txt": lambda: f"Endpoint=sb://x/;SharedAccessKeyName=r;SharedAccessKey={base_64(43)}=",
    "azure-sas.py": lambda: f'"https://a.blob.core.windows.net/c?sv=2022-11-02&sr=c&sig={mixed(43)}%3D"',
    "postgres.py": lambda: 'create_engine("postgres' + f'ql://admin:{mixed(16)}@db.internal:5432/train")',
    "mysql.ini": lambda: f"mysql+pymysql://root:{mixed(12)}@10.0.0.4/db",
    "mongo.yaml": lambda: f"uri: mongodb+srv://u:{mixed(14)}@cluster0.ab1cd.mongodb.net",
    "redis.py": lambda: f'Redis.from_url("redis://:{mixed(20)}@cache:6379/0")',
    "git-clone.sh": lambda: f"git clone https://bob:{mixed(20)}@git.internal/x.git",
    "pip.conf": lambda: f"index-url = https://user:{mixed(20)}@pypi.internal/simple",
    "mlflow.sh": lambda: f"export MLFLOW_TRACKING_PASSWORD={mixed(12)}",
    "wandb.py": lambda: f'wandb.login(key="{hexadecimal(40)}")',
    "wandb.ipynb": lambda: notebook(f'%env WANDB_API_KEY={hexadecimal(40)}'),
    "wandb.sh": lambda: f"wandb login {hexadecimal(40)}",
    "comet.py": lambda: f'Experiment(api_key="{mixed(25)}")',
    "neptune.py": lambda: f'init_run(api_token="{base_64(100)}==")',
    "clearml.cfg": lambda: f'"secret_key" = "{mixed(50)}"',
    "kaggle.txt": lambda: f'{{"username":"bob","key":"{hexadecimal(32)}"}}',
    "cohere.py": lambda: f'COHERE_API_KEY = "{mixed(40)}"',
    "mistral.sh": lambda: f"export MISTRAL_API_KEY={mixed(32)}",
    "together.yaml": lambda: f"together_api_key: {hexadecimal(64)}",
    "client.json": lambda: f'{{"client_secret": "{mixed(32)}"}}',
    "database.yml": lambda: f"production:\n  password: {mixed(12)}\n",
    "connect.py": lambda: f'connect(host="db", password="{mixed(12)}!")',
    "letters.py": lambda: 'connect(password="gzQgFUBZ' + 'GMbhUM")',
    "header.py": lambda: f'headers = {{"Authorization": "Bearer {mixed(40)}"}}',
    "curl.sh": lambda: f"curl -u admin:{mixed(16)} https://x.internal",
    "docker.json": lambda: '{"auths": {"x": {"auth": "' + base64.b64encode(f"b:{mixed(20)}".encode()).decode() + '"}}}',
    "netrc.txt": lambda: f"machine api.wandb.ai\n  login user\n  password {hexadecimal(40)}\n",
    "npmrc.txt": lambda: f"//registry.internal/:_authToken={mixed(36)}",
    "admin.conf": lambda: f"apiVersion: v1\nkind: Config\nusers:\n- name: u\n  user:\n    token: {mixed(60)}\n",
    "cluster.yaml": lambda: f"kind: Config\nusers:\n- user:\n    client-key-data: {base_64(400)}\n",
    "manifest.yaml": lambda: f"apiVersion: v1\nkind: Secret\nmetadata:\n  name: x\ndata:\n  pw: {base_64(24)}\n",
    "state.json": lambda: '{"version": 4, "terraform_version": "1.9", "serial": 3, "lineage": "x", "resources": []}',
    "robot.json": lambda: json.dumps({"type": "service_account", "private_key": key_block("")}),
    "adc.json": lambda: json.dumps({"type": "authorized_user", "refresh_token": "1//0" + mixed(60)}),
    "jar.txt": lambda: "# Netscape HTTP Cookie File\n.x.com TRUE / TRUE 0 sid 1\n",
    "web.txt": lambda: "bob:$apr1$" + f"{mixed(8)}${mixed(22)}\n",
    # handed over in a command, a call, XML, a tool's few lines
    "sshpass.sh": lambda: f"sshpass -p '{mixed(13)}' scp a gpu:",
    "mysql.sh": lambda: f"mysql -u root -p{mixed(13)} -h db",
    "sudo.sh": lambda: f"echo {mixed(12)} | sudo -S apt-get install x",
    "docker-login.sh": lambda: f"docker login -u bob -p {mixed(13)} registry.internal",
    "stdin.sh": lambda: f"echo '{mixed(13)}' | docker login --password-stdin registry.internal",
    "redis-cli.sh": lambda: f"redis-cli -h cache -a {mixed(13)} ping",
    "compose-redis.yml": lambda: f"command: redis-server --requirepass {mixed(13)}",
    "openssl.sh": lambda: f"openssl enc -d -aes256 -pass pass:{mixed(12)} -in x",
    "Dockerfile": lambda: f"ENV DB_PASSWORD {mixed(13)}",
    "vnc.sh": lambda: f"export VNC_PW={mixed(13)}",
    "remote.cfg": lambda: f"[sftp]\nhost = h\npass = {mixed(40)}",
    "flow.cfg": lambda: f"fernet_key = {base_64(43)}=",
    "tunnel.sh": lambda: f"ngrok config add-authtoken {mixed(27)}_{mixed(21)}",
    "rent.sh": lambda: f"vastai set api-key {hexadecimal(64)}",
    "lab.toml": lambda: f"api_key = secret_lab_{hexadecimal(32)}.{mixed(32)}",
    "netrc-default.txt": lambda: f"default login bob password {mixed(13)}",
    "netrc-order.txt": lambda: f"machine x.org\n\tpassword {mixed(13)}\n\tlogin bob",
    "index.txt": lambda: f"--extra-index-url https://{mixed(40)}@pypi.internal/simple",
    "climate.txt": lambda: "url: https://cds.climate.copernicus.eu/api\nkey: " + "-".join(hexadecimal(n) for n in (8, 4, 4, 4, 12)),
    "weather.json": lambda: f'{{"url": "https://api.x.int/v1", "key": "{hexadecimal(32)}"}}',
    "client.py": lambda: f"co = cohere.Client('{mixed(40)}')",
    "mail.py": lambda: f"server.login('me@corp.internal', '{mixed(13)}')",
    "mail-app.py": lambda: "server.login('me@corp.internal', '" + " ".join(of(string.ascii_lowercase, 4) for _ in range(4)) + "')",
    "nexus.xml": lambda: f"<username>bob</username><password>{mixed(13)}</password>",
    "variables.tf": lambda: f'variable "db_password" {{\n  type = string\n  default = "{mixed(13)}"\n}}',
    "server.py": lambda: f"c.ServerApp.password = u'sha1:{hexadecimal(12)}:{hexadecimal(40)}'",
    # private keys under any name
    "notes.md": lambda: key_block("RSA "),
    "deploy": lambda: key_block("OPENSSH "),
    "signing.asc": lambda: key_block("PGP ").replace("KEY--", "KEY BLOCK--"),
    "inline.py": lambda: 'KEY = """' + key_block("EC ") + '"""',
    "putty.txt": lambda: f"PuTTY-User-Key-File-3: ssh-rsa\nPrivate-Lines: 1\n{base_64(64)}\n",
    "tunnel.conf": lambda: f"[Interface]\nPrivateKey = {base_64(43)}=\n",
}  # fmt: skip

NAMES = """
    .env .env.local .env.production conf/.env.dev prod.env .envrc .envs/.production/.django .dev.vars .env-staging
    .netrc _netrc .authinfo .git-credentials .config/git/credentials .vscode/sftp.json sftp-config.json .curlrc
    .pgpass .my.cnf .mylogin.cnf .pg_service.conf .snowsql/config .snowflake/connections.toml .snowflake/config.toml
    connections.toml .dbt/profiles.yml
    .npmrc .pypirc .gem/credentials .cargo/credentials .cargo/credentials.toml .m2/settings.xml .sbt/.credentials
    .composer/auth.json .nuget/NuGet.Config
    .dockercfg .docker/config.json .dockerconfigjson containers/auth.json
    kubeconfig kubeconfig.yaml prod.kubeconfig .kube/config k8s/kubeconfig-prod.yml
    .aws/credentials .aws/config .aws/sso/cache/abc.json .boto .s3cfg .passwd-s3fs rclone.conf .oci/config
    .oci/oci_api_key.pem .azure/accessTokens.json .azure/msal_token_cache.bin local.settings.json x.publishsettings
    application_default_credentials.json client_secret_1.json gcp-service-account.json my_service_account.json
    rootkey.csv bob_accessKeys.csv credentials.csv gcp-key.json .config/gcloud/access_tokens.db clouds.yaml
    .config/doctl/config.yaml .config/gh/hosts.yml .modal.toml
    .databrickscfg kaggle.json .kaggle/kaggle.json .huggingface/token .cache/huggingface/token
    .cache/huggingface/stored_tokens .mlflow/credentials .dvc/config.local .comet.config clearml.conf hf_token.txt
    .streamlit/secrets.toml .claude/.credentials.json jupyter_cookie_secret
    terraform.tfstate terraform.tfstate.backup infra/terraform.tfstate.d/x.tfstate prod.tfvars a.auto.tfvars
    x.tfvars.json .terraformrc credentials.tfrc.json
    .vault-token .vault_pass vault_pass.txt .vault_pass.txt ansible/vault-password.txt vault_password secret_id
    config/master.key config/credentials.yml.enc config/credentials/production.key .Renviron .Rhistory
    server.key tls.pem AuthKey_ABC.p8 cert.p12 cert.pfx store.jks my.keystore putty.ppk svc.keytab id_rsa id_work
    id_ed25519_sk .ssh/config .ssh/work ssh_host_rsa_key deploy_key .gnupg/secring.gpg github_rsa
    office.ovpn wg0.conf safe.kdbx safe.kdb login.keychain-db export.1pux vault.agilekeychain .password-store/x.gpg
    cookies.txt cookies.sqlite logins.json key4.db youtube_cookies.txt
    .bash_history .zsh_history .python_history .psql_history .mysql_history .lesshst fish_history .node_repl_history
    .htpasswd secrets.json secrets.yaml secrets.yml secrets.toml secrets.env conf/secret.yaml prod-secrets.yaml
    app.secrets.json .secrets .secrets.toml secrets/db_password.txt credentials credentials.json credentials.ini
    aws_credentials.txt creds.json my-creds.yaml .credentials token.json token.pickle api_key.txt api_keys.json
    .env~ .env.swp .env.local.bak env.local secrets.yaml.bak secrets.json.old server.key.bak .netrc.orig
    netrc git-credentials .s3ql/authinfo2 .irods/.irodsA .vnc/passwd .httpie/sessions/x/y.json .mongoshrc.js
    .pypoetry/auth.toml .config/pip/pip.conf .azureml/auth/accessToken.json msal_token_cache.json accessTokens.json adc.json
    passwd-s3fs mc/config.json lakectl.yaml .sky/sky-key ray_bootstrap_key ngrok.yml .aws-credentials .runpod.toml modal.toml
    lambda_keys .cdsapirc .ecmwfapirc .synapseConfig .osfcli.config .config/github-copilot/hosts.json .wandb_api_key hf_key.txt
    .figshare_token .cvat_token .aider.conf.yml .Xauthority trains.conf
    passwords.txt password.txt db_password.txt private_key.txt .api_key ID_RSA X.PEM
""".split()

HARMLESS_NAMES = """
    a.py train.py secrets.py credentials.py token.py password_reset.py src/secrets/__init__.py lib/credentials/store.py
    tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json tokens.txt tokens.json vocab.json
    merges.txt wiki.train.tokens tokenizer.model environment.py environment.yml env.yaml conda-env.yml venv.md
    .env.example .env.sample .env.template example.env secrets.example.yaml terraform.tfvars.example
    id_rsa.pub deploy.pub .secrets.baseline key.py keys.py monkey.txt keyboard.json keypoints.json keyframes.csv
    config.json config/config.yaml kube/values.yaml docker/compose.yaml history.json history.csv training_history.json
    poetry.lock uv.lock package-lock.json Cargo.lock requirements.txt Makefile LICENSE README.md docs/secrets.md
    docs/credentials.rst .gitignore .dockerignore .github/workflows/ci.yml .pre-commit-config.yaml .azure/pipeline.yml
    data/labels.csv cookies.py identity.py id_mapping.json idx.txt public_key.pem server_pub.pem main.tf
    netrc.py wandb_keys.py token.py.bak .gemini/settings.json .condarc pip.conf .mcp.json special_tokens.json
    variables.tf k8s/deployment.yaml a.envx passwordless.py schema.sql .python-version .editorconfig
""".split()

HARMLESS: dict[str, str] = {
    "env.example": "OPENAI_API_KEY=YOUR_TOKEN_HERE\nHF_TOKEN=<token>\nDB_PASSWORD=changeme\n",
    ".env.example": "OPENAI_API_KEY=sk-" + "x" * 48 + "\nHF_TOKEN=hf_" + "x" * 34 + "\nPASSWORD=\n",
    ".env.template": "AWS_SECRET_ACCESS_KEY=${AWS_SECRET_ACCESS_KEY}\nTOKEN=xxxxxxxxxxxxxxxxxxxx\n",
    "environment.py": 'key = os.environ["OPENAI_API_KEY"]\ntoken = os.getenv("HF_TOKEN")\n',
    "docs.md": "AKIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "aws.md": "aws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "yaml.yaml": "db:\n  password: ${DB_PASSWORD}\n  api_key: {{ .Values.key }}\n  token: !secret hass_token_1234\n",
    "compose.yaml": "environment:\n  POSTGRES_PASSWORD: postgres\n  URL: postgres://postgres:postgres@db/x\n",
    "urls.py": '"postgres://user:password@localhost/db", f"redis://{user}:{password}@{host}", "http://a:b@c"',
    "urls.sh": "git clone https://$USER:$TOKEN@github.com/x/y\npsql postgres://admin:<password>@host/db\n",
    "tokens.py": 'pad_token = "<|endoftext|>"\neos_token: str = "</s>"\nspecial_tokens = ["[CLS]", "[SEP]"]\n',
    "tokens2.py": 'tokenizer = AutoTokenizer.from_pretrained("meta-llama/Llama-3.2-1B-Instruct", token=True)\n',
    "tokens3.json": '{"bos_token": "<s>", "unk_token": "<unk>", "mask_token": "<mask_0123456789>", "image_token": "<img_12ab34cd56>"}',
    "types.py": "def f(api_key: Optional[str] = None, password: SecretStr, token: CancellationToken2) -> None: ...\n",
    "args.py": 'parser.add_argument("--api-key", default=None, help="key")\nargs.api_key = settings.api_key_v2\n',
    "header.py": 'headers = {"Authorization": f"Bearer {token}"}\nh = {"Authorization": "Bearer " + os.environ["TOKEN"]}\n',
    "lock.toml": 'name = "x"\nhash = "sha256:' + "9f86d081884c7d65" * 4 + '"\nchecksum = "' + "9f86d081884c7d65" * 4 + '"\n',
    "requirements.txt": "numpy==2.1.0 \\\n    --hash=sha256:" + "9f86d081884c7d65" * 4 + "\n",
    "lock.json": '{"integrity": "sha512-z9Gm0l7XqT1V7x5Fq1QZ0wJ8+3jw1mS0bX7QqB0xkq6gE3c6rT7cJw8xM0rVY6k8nV1Jm2cZxW0yVqg5yYt5Rw=="}',
    "commit.txt": "commit 99af1b0bc0b0f2b7a3d15f57e4f2e5a3c1d2e3f4\nAuthor: x\n",
    "ca.crt": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    "cacert.pem": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    "parse.py": 'if "-----BEGIN PRIVATE' + ' KEY-----" in text:\n    raise ValueError("no keys")\n',
    "public.pem": "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n",
    "weights.bin": "\0\0-----BEGIN PRIVATE" + " KEY-----\nabc",
    "config.yaml": "model: resnet50\nlr: 1e-4\nseed_key: 1234567890\nprimary_key: user_id_v2\ncache_key: imagenet-2012-train-v1\n",
    "hydra.yaml": "wandb:\n  project: x\n  entity: team-2024\n  key: ${oc.env:WANDB_API_KEY}\n",
    "keys.py": 'KEYS = ("input_ids", "attention_mask", "token_type_ids_2")\nkey = "model.layers.11.self_attn.q_proj.weight"\n',
    "vocab.json": '{"token": 1234, "secret": 99, "password": 102, "api_key": 7, "Ġpassword12": 812}',
    "ids.json": '{"run_id": "0a1b2c3d4e5f60718293a4b5c6d7e8f9", "uuid": "123e4567-e89b-42d3-a456-426614174000"}',
    "aws.tf": 'resource "aws_iam_access_key" "x" { user = aws_iam_user.x.name }\npassword = var.db_password\n',
    "k8s.yaml": "kind: Deployment\nspec:\n  env:\n  - name: T\n    valueFrom: {secretKeyRef: {name: s, key: t}}\n",
    "external.yaml": "kind: ExternalSecret\nspec:\n  data:\n  - secretKey: password\n    remoteRef: {key: prod/db}\n",
    "ci.yml": "env:\n  TOKEN: ${{ secrets.GITHUB_TOKEN }}\n  password: ${{ secrets.PYPI_API_TOKEN }}\n",
    "test_login.py": 'assert login(password="password123") == 200\nfake = {"token": "test-token-1234567890"}\n',
    "bearer.md": "curl -H 'Authorization: Bearer $TOKEN' -u $USER:$PASS https://x\n",
    "words.txt": "the secret of a good password is its length; a token of 2024-05-01T10:00:00Z\n",
    "image.ipynb": '{"cells": [{"outputs": [{"data": {"image/png": "iVBORw0KGgoAAAANSUhEUgAA' + "AbC4+/dE9" * 400 + '"}}]}]}',
    "ids.csv": "id,hash\n1,0cc175b9c0f1b6a831c399e269772661\n2,92eb5ffee6ae2fec3ad71c777531578f\n",
    "sass.scss": "$primary-key-color: #a1b2c3;\n.password-field-2 { color: red }\n",
    "cookie.js": 'document.cookie = "session=" + sid;\n',
    "constants.py": 'SECRET_KEY = os.environ.get("SECRET_KEY", "insecure-default")\nTOKEN_URL = "https://x/oauth2/v2/token"\n',
    "models.py": 'model = "text-embedding-3-small"\ntoken_model = "cl100k_base_2023_11"\nclient_token = "idempotency-123"\n',
    "passes.py": "for pass_number in range(10): pass\nbypass = layer_v2(x); pass_rate = 0.98123456\n",
    "passes.yaml": "pass: 0.912345\npasses: [warmup_10k, main_200k]\nnum_pass_workers: 8\npw: 12\n",
    "sentry.py": 'sentry_sdk.init("https://0a1b2c3d4e5f60718293a4b5c6d7e8f9@o447951.ingest.sentry.io/5429")\n',
    "commands.sh": "mysql -u root -p$PW -h db\nsshpass -p $PASS ssh gpu\necho hello | sudo tee /etc/x\nredis-cli -a \"$REDIS\" ping\n",
    "pom.xml": "<password>${env.PASSWORD}</password><token>changeme</token>\n",
    "prose.txt": "The default password is short. api key rotation happened. A token counts 4 bytes, key frames 24.\n",
    "client.py": 'tracker = MlflowClient("http://localhost:5000")\nc = Client(api_key)\nlogin(user, password)\n',
    "input.tf": 'variable "db_password" {\n  type = string\n  sensitive = true\n}\nvariable "zone" { default = "us-east-1" }\n',
    "metrics.json": '{"tokens_per_second": 12345.678, "num_tokens": 1048576, "tokens": "1,234,567,890"}',
    "sse.py": "password: str = Field(min_length=12)\npassphrase = getpass.getpass('pass 1234567: ')\n",
}  # fmt: skip
