# Droplets with a private network of their own region, each a node of one mesh by its cloud-init. Private networks are shared with
# strangers or at least with whoever gets into one droplet: nothing but 655 is open there, and what is said goes through the mesh.
terraform {
  required_version = ">= 1.3"
  required_providers {
    digitalocean = {
      source  = "digitalocean/digitalocean"
      version = "~> 2.40"
    }
  }
}

variable "region" {
  type    = string
  default = "ams3"
}

variable "ssh_keys" {
  description = "Fingerprints of the keys that may log in"
  type        = list(string)
}

variable "nodes" {
  description = "Name of each node (letters, digits and _) and its address in the mesh"
  type        = map(string)
  default = {
    db_01  = "172.20.0.21"
    db_02  = "172.20.0.22"
    web_01 = "172.20.0.11"
  }
}

variable "connect_to" {
  description = "The node that all others dial"
  type        = string
  default     = "db_01"
}

resource "digitalocean_vpc" "mesh" {
  name     = "mesh-${var.region}"
  region   = var.region
  ip_range = "10.132.0.0/20"
}

resource "digitalocean_droplet" "node" {
  for_each = var.nodes
  image    = "debian-12-x64"
  # A name of DNS holds no _.
  name     = replace(each.key, "_", "-")
  region   = var.region
  size     = "s-1vcpu-1gb"
  vpc_uuid = digitalocean_vpc.mesh.id
  ssh_keys = var.ssh_keys
  tags     = ["mesh"]
  user_data = templatefile("${path.module}/../cloud-init/user-data.yaml", {
    name       = each.key
    address    = each.value
    connect_to = var.connect_to
  })
  # Another user_data would mean another droplet, with another key.
  lifecycle {
    ignore_changes = [user_data]
  }
}

# Public side: SSH only. Private side: the nodes reach each other's 655.
resource "digitalocean_firewall" "mesh" {
  name = "mesh-${var.region}"
  tags = ["mesh"]

  inbound_rule {
    protocol         = "tcp"
    port_range       = "22"
    source_addresses = ["0.0.0.0/0", "::/0"]
  }

  dynamic "inbound_rule" {
    for_each = ["tcp", "udp"]
    content {
      protocol    = inbound_rule.value
      port_range  = "655"
      source_tags = ["mesh"]
    }
  }

  dynamic "outbound_rule" {
    for_each = ["tcp", "udp"]
    content {
      protocol              = outbound_rule.value
      port_range            = "1-65535"
      destination_addresses = ["0.0.0.0/0", "::/0"]
    }
  }
}

# What Salt's pillar, Ansible's inventory or a host file wants to know.
output "addresses" {
  value = { for name, droplet in digitalocean_droplet.node : name => droplet.ipv4_address_private }
}
