"""Models that several threads make at once are whole."""

from concurrent.futures import ThreadPoolExecutor

from btm.models import causal_lm


def test_models_are_loaded_in_several_threads_at_once(forest):
    folders = [elm.path for elm in forest.elms()] * 4
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(causal_lm.load_model, folders))
    for model in models:
        head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
        assert model.config.tie_word_embeddings == (head.weight is embeddings.weight)
        assert not any(parameter.is_meta for parameter in model.parameters())
