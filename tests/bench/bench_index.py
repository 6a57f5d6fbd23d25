"""Indexing beside LlamaIndex and LangChain with the same embedder, in one run, each in turn.

python tests/bench/bench_index.py [--data ../shared/data/httpx]     about 3 minutes

All read the same files, cut them into passages of about the same size, embed with e5-small and
store the vectors in FAISS (LangChain, onecard) or the library's own store (LlamaIndex). "Own work"
is the time outside the embedder. "langchain" is the shortest script: it cuts by length and does not
remember files. "langchain, same job" does what onecard does with LangChain's own parts: cutting by
language, its indexing API (only changed files are read again), and its BM25.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import faiss
from langchain_classic.indexes import SQLRecordManager, index
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.retrievers import BM25Retriever
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document as LangDocument
from langchain_core.embeddings import Embeddings
from langchain_text_splitters import Language, RecursiveCharacterTextSplitter
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.node_parser import SentenceSplitter

from onecard.datasets.files import walk
from onecard.inference.embeddings import open_embedder
from onecard.reporting import Reporter, table
from onecard.tasks.rag.configs import IndexConfig
from onecard.tasks.rag.indexer import Indexer
from onecard.tasks.rag.store import Store

ROOT = Path(__file__).parents[2]


class Timed:
    """The embedder, with the time inside it and the texts counted."""

    name, dim = "e5-small", 384

    def __init__(self, inner):
        self.inner, self.seconds, self.texts = inner, 0.0, 0

    def passages(self, texts):
        started = time.perf_counter()
        vectors = self.inner.passages(list(texts))
        self.seconds += time.perf_counter() - started
        self.texts += len(texts)
        return vectors

    def queries(self, texts):
        return self.inner.queries(texts)


def ours(files, timed, folder):
    store = Store(folder / "onecard", create=True)
    Indexer(store, IndexConfig(), Reporter(), timed).update(files)
    store.bm25_index()
    store.close()


class LangEmbeddings(Embeddings):
    def __init__(self, timed):
        self.timed = timed

    def embed_documents(self, texts):
        return [v.tolist() for v in self.timed.passages(texts)]

    def embed_query(self, text):
        return self.timed.queries([text])[0].tolist()


def langchain_same_job(files, timed, folder):
    documents = [
        LangDocument(page_content=path.read_text(errors="replace"), metadata={"source": str(path)})
        for path in files
    ]
    parts = []
    for document in documents:
        kind = {".py": Language.PYTHON, ".md": Language.MARKDOWN}.get(
            Path(document.metadata["source"]).suffix
        )
        sizes = {"chunk_size": 1150, "chunk_overlap": 115}
        parts += (
            RecursiveCharacterTextSplitter.from_language(kind, **sizes)
            if kind
            else RecursiveCharacterTextSplitter(**sizes)
        ).split_documents([document])
    store = FAISS(LangEmbeddings(timed), faiss.IndexFlatIP(384), InMemoryDocstore(), {})
    records = SQLRecordManager("bench", db_url=f"sqlite:///{folder}/records.sqlite")
    records.create_schema()
    index(
        parts,
        records,
        store,
        cleanup="full",
        source_id_key="source",
        batch_size=128,
        key_encoder="sha256",
    )
    BM25Retriever.from_documents(parts)
    store.save_local(str(folder / "langchain"))


def langchain(files, timed, folder):
    documents = [
        LangDocument(page_content=path.read_text(errors="replace"), metadata={"path": str(path)})
        for path in files
    ]
    parts = RecursiveCharacterTextSplitter(chunk_size=1150, chunk_overlap=115).split_documents(
        [d for d in documents if d.page_content.strip()]
    )
    store = FAISS(LangEmbeddings(timed), faiss.IndexFlatIP(384), InMemoryDocstore(), {})
    for i in range(0, len(parts), 128):
        store.add_documents(parts[i : i + 128])
    store.save_local(str(folder / "langchain"))


def llamaindex(files, timed, folder):
    class Wrapped(BaseEmbedding):
        def _get_text_embedding(self, text):
            return timed.passages([text])[0].tolist()

        def _get_text_embeddings(self, texts):
            return [v.tolist() for v in timed.passages(texts)]

        def _get_query_embedding(self, query):
            return timed.queries([query])[0].tolist()

        async def _aget_query_embedding(self, query):
            return self._get_query_embedding(query)

    documents = [
        Document(text=text, metadata={"path": str(path)})
        for path in files
        if (text := path.read_text(errors="replace")).strip()
    ]
    built = VectorStoreIndex.from_documents(
        documents,
        embed_model=Wrapped(embed_batch_size=128),
        transformations=[SentenceSplitter(chunk_size=320, chunk_overlap=32)],
        storage_context=StorageContext.from_defaults(),
    )
    built.storage_context.persist(str(folder / "llamaindex"))


WAYS = {
    "onecard": ours,
    "langchain": langchain,
    "langchain, same job": langchain_same_job,
    "llamaindex": llamaindex,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "httpx")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    files = [file.path for file in walk([args.data])]
    inner = open_embedder("e5-small")
    inner.passages(["warm up", "the cores"])
    rows = {name: [] for name in WAYS}
    for _ in range(args.rounds):
        for name, call in WAYS.items():
            folder = Path(tempfile.mkdtemp())
            timed = Timed(inner)
            started = time.perf_counter()
            call(files, timed, folder)
            total = time.perf_counter() - started
            shutil.rmtree(folder)
            rows[name].append(
                {
                    "total_s": total,
                    "embed_s": timed.seconds,
                    "own_s": total - timed.seconds,
                    "texts": timed.texts,
                }
            )
            print(
                name,
                f"{total:.1f} s, {timed.texts} passages, own {total - timed.seconds:.2f} s",
                flush=True,
            )
    medians = {
        name: {key: statistics.median(row[key] for row in values) for key in values[0]}
        for name, values in rows.items()
    }
    cells = [
        [
            name,
            f"{m['total_s']:.1f}",
            str(int(m["texts"])),
            f"{m['texts'] / m['embed_s']:.1f}",
            f"{m['own_s']:.2f}",
            f"{m['own_s'] / m['total_s']:.1%}",
            f"{m['own_s'] / medians['onecard']['own_s']:.1f}x",
        ]
        for name, m in medians.items()
    ]
    print(f"{len(files)} files")
    print(
        table(
            cells,
            [
                "who",
                "total s",
                "passages",
                "passages/s embedded",
                "own s",
                "share outside the embedder",
                "own work against ours",
            ],
        )
    )
    (ROOT / "bench-results").mkdir(exist_ok=True)
    (ROOT / "bench-results" / "index.json").write_text(
        json.dumps({"files": len(files), "rounds": rows, "medians": medians}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
