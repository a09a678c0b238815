#!/usr/bin/env bash
# Two hosts, one shared disk, torchrun. Run it on both, with its own number:
#
#   MASTER_ADDR=node-a NODE_RANK=0 examples/two_nodes.sh /shared/runs/big     # on node-a
#   MASTER_ADDR=node-a NODE_RANK=1 examples/two_nodes.sh /shared/runs/big     # on node-b
#   opsdash attach /shared/runs/big                                           # anywhere
set -euo pipefail
run_dir=${1:?"usage: MASTER_ADDR=HOST NODE_RANK=N $0 RUN_DIR [flags of the trainer]"}
shift

# Which network the ranks meet through; unset, gloo and NCCL choose for themselves.
# export GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0

# A small ring: the agent reads it to see who is late inside backward.
export TORCH_FR_BUFFER_SIZE=${TORCH_FR_BUFFER_SIZE:-512}

exec torchrun \
  --nnodes "${NNODES:-2}" \
  --node-rank "${NODE_RANK:?"the number of this host, from 0"}" \
  --nproc-per-node "${NPROC:-4}" \
  --master-addr "${MASTER_ADDR:?"the host with number 0"}" \
  --master-port "${MASTER_PORT:-29500}" \
  -m trainer ddp "$run_dir" "$@"
